"""A model that does induction by construction, so that its true circuit is known.

`[A] [B] ... [A] -> [B]`, in an unmodified GPT-2 of two layers, four heads and width 64 with weights
that are set, not trained. The residual stream is split into orthogonal parts, all of mean zero:
`token`, `position`, `previous`, `answer` and a rest that the circuit leaves alone.

- `a0.h2` attends from each position to the one before and copies its token into `previous`.
- `a1.h1` attends to the position whose `previous` is the current token, and copies the token there
  into `answer`: K-composition, the induction head of Olsson et al. 2022 (arXiv 2209.11895) and
  Elhage et al. 2021.
- The unembedding reads `answer` alone.
- The six other heads have random weights and outputs as large as those two; MLPs are random and
  small. `leak` says how much of what they write falls where the circuit reads.

The norms are GPT-2's own, with an epsilon so large beside the variance of any residual stream here
that each divides by a constant (to about one part in 10^4) and their weight undoes it. What makes
the model hard for a first-order method is therefore the attention, which is saturated, and nothing
else.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from random import Random

import torch
from jaxtyping import Bool, Float
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from circuitprune.circuits.graph import Graph
from circuitprune.data.tasks.pair import Pair, choose_corruption
from circuitprune.errors import ConfigError

LETTERS = "abcdefghijklmn"
LENGTH = 10
"""Words in a prompt: different letters, the last of them one of the earlier."""
N_LAYERS, N_HEADS, D_MODEL, D_HEAD = 2, 4, 64, 16
SPECIAL = ("<unk>", "<end>")

PREVIOUS_HEAD, INDUCTION_HEAD = "a0.h2", "a1.h1"
DISTRACTORS = tuple(
    name
    for layer in range(N_LAYERS)
    for head in range(N_HEADS)
    if (name := f"a{layer}.h{head}") not in (PREVIOUS_HEAD, INDUCTION_HEAD)
)

CARRIES_CONTENT = (
    f"input->{PREVIOUS_HEAD}<v>",
    f"input->{INDUCTION_HEAD}<q>",
    f"{PREVIOUS_HEAD}->{INDUCTION_HEAD}<k>",
    f"input->{INDUCTION_HEAD}<v>",
    f"{INDUCTION_HEAD}->logits",
)
CARRIES_POSITION = (f"input->{PREVIOUS_HEAD}<q>", f"input->{PREVIOUS_HEAD}<k>")

_EPSILON = 1e4
_LOGIT = 10.0
"""Logit of the answer; all other letters have 0, up to the leak."""


def induction_graph() -> Graph:
    """The graph of the model: 110 edges."""
    return Graph(N_LAYERS, N_HEADS, N_HEADS, d_model=D_MODEL)


def true_circuit(ablation: str = "patch") -> Bool[Tensor, " edge"]:
    """The edges that matter when the others are ablated this way, over `induction_graph`.

    Five edges carry tokens. Two more carry the positions by which the previous-token head attends.
    A corrupt prompt has the same positions, and so has the mean at each position: under `patch` and
    `positional-mean` cutting those two changes nothing. Under `zero` and `mean` it does.

    Raises:
        ConfigError: another ablation.
    """
    if ablation not in ("patch", "positional-mean", "zero", "mean"):
        raise ConfigError(f"the true circuit is known for four ablations, not for {ablation!r}")
    keeps_position = ablation in ("patch", "positional-mean")
    names = CARRIES_CONTENT if keeps_position else CARRIES_CONTENT + CARRIES_POSITION
    return induction_graph().mask_of(names)


def induction_model(
    leak: float = 0.2,
    sharpness: float = 20.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> GPT2LMHeadModel:
    """The model, in eval mode.

    Args:
        leak: How much of what distractors and MLPs write falls on parts of the stream that the
            circuit reads, before it is scaled to its full norm. 0: nothing does, so the edges of
            the circuit are exactly those that matter. 1: they write in all directions alike, and
            move the logits a little.
        sharpness: Attention score, before the softmax, of the position that a head of the circuit
            looks for; the others have 0, up to the leak. The gradient of the attention falls as
            `exp(-sharpness)`.
        seed: Of the basis of the residual stream and of all random weights.
        dtype: Of the weights.

    Raises:
        ConfigError: a leak outside [0, 1].
    """
    if not 0 <= leak <= 1:
        raise ConfigError(f"leak must lie in [0, 1], got {leak}")
    with torch.random.fork_rng(devices=[]):  # transformers draws weights that are then replaced
        model = GPT2LMHeadModel(_config())
    generator = torch.Generator().manual_seed(seed)
    parts, words = _Parts(generator), slice(len(SPECIAL), None)
    weights = {name: parameter.data.zero_() for name, parameter in model.named_parameters()}
    for name, weight in weights.items():
        if "ln_" in name and name.endswith("weight"):
            weight.fill_(_EPSILON**0.5)
    weights["transformer.wte.weight"][words] = parts.token.float()
    weights["transformer.wpe.weight"][:] = parts.position.float()
    weights["lm_head.weight"][words] = _LOGIT * parts.answer.float()
    for layer in range(N_LAYERS):
        block = f"transformer.h.{layer}"
        for head in range(N_HEADS):
            made = _head(parts, f"a{layer}.h{head}", leak, sharpness, generator)
            columns = slice(head * D_HEAD, (head + 1) * D_HEAD)
            qkv = weights[f"{block}.attn.c_attn.weight"].view(D_MODEL, 3, D_MODEL)
            qkv[:, :, columns] = torch.stack(made[:3], dim=1).float()
            weights[f"{block}.attn.c_proj.weight"][columns] = made[3].float()
        fan_in = torch.randn(D_MODEL, D_MODEL, generator=generator)
        weights[f"{block}.mlp.c_fc.weight"][:] = fan_in / 2**0.5
        outputs = parts.spread(D_MODEL, leak, generator)
        weights[f"{block}.mlp.c_proj.weight"][:] = 0.03 * outputs.float()
    model.to(dtype).eval()  # type: ignore[arg-type]
    return model


def induction_tokenizer() -> PreTrainedTokenizerFast:
    """Letters between spaces are tokens."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *LETTERS])}
    whole = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    whole.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=whole, unk_token="<unk>", eos_token="<end>", pad_token="<end>"
    )


class Induction:
    """Prompts that end in a letter they held before; the answer is the one that followed it.

    The corrupt prompt has the same letters in an order that agrees with the clean one nowhere, and
    ends in another of them, which stood elsewhere. So each edge of the true circuit, patched alone,
    changes the answer.
    """

    name = "induction"
    corruptions = ("deranged",)

    def pairs(self, rng: Random, corruption: str = "") -> Iterator[Pair]:
        """Endless pairs.

        A letter from the first position is never asked for: it has no previous one, so `a0.h2` can
        only copy that letter itself.
        """
        kind, number = choose_corruption(self, corruption), 0
        while True:
            clean = rng.sample(LETTERS, LENGTH - 1)
            corrupt = rng.sample(clean, LENGTH - 1)
            here, there = rng.sample(range(1, LENGTH - 2), 2)
            answer, wrong = clean[here + 1], corrupt[there + 1]
            agree = any(a == b for a, b in zip(clean, corrupt, strict=True))
            if agree or answer == wrong or clean[here] == corrupt[there]:
                continue
            yield Pair(
                f"induction-{number:06d}",
                " ".join([*clean, clean[here]]),
                " ".join([*corrupt, corrupt[there]]),
                (f" {answer}",),
                (f" {wrong}",),
                kind,
            )
            number += 1


def save_induction(
    folder: str | Path,
    n_pairs: int = 1000,
    leak: float = 0.2,
    sharpness: float = 20.0,
    seed: int = 0,
) -> Path:
    """Writes the model, its tokenizer and `pairs.jsonl`, for `model.name` and `task.path`.

    Arguments as of `induction_model`; `seed` decides the pairs too. Returns the folder.
    """
    folder = Path(folder)
    induction_model(leak, sharpness, seed).save_pretrained(folder)
    induction_tokenizer().save_pretrained(folder)
    stream = Induction().pairs(Random(seed))
    rows = [json.dumps(asdict(next(stream))) for _ in range(n_pairs)]
    (folder / "pairs.jsonl").write_text("".join(f"{row}\n" for row in rows))
    return folder


def _config() -> GPT2Config:
    return GPT2Config(
        vocab_size=len(SPECIAL) + len(LETTERS),
        n_positions=LENGTH,
        n_embd=D_MODEL,
        n_layer=N_LAYERS,
        n_head=N_HEADS,
        n_inner=D_MODEL,
        layer_norm_epsilon=_EPSILON,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=None,
    )


class _Parts:
    """Orthonormal directions of mean zero, which a LayerNorm leaves alone, and what each is for."""

    def __init__(self, generator: torch.Generator) -> None:
        random = torch.randn(D_MODEL, D_MODEL - 1, generator=generator, dtype=torch.float64)
        basis = torch.linalg.qr(random - random.mean(dim=0)).Q.T
        n_letters = len(LETTERS)
        sizes = [n_letters, LENGTH, n_letters, n_letters]
        parts = basis.split([*sizes, len(basis) - sum(sizes)])
        self.token, self.position, self.previous, self.answer, self.rest = parts

    def spread(self, n: int, leak: float, generator: torch.Generator) -> Float[Tensor, "n d_model"]:
        """Random unit vectors in the rest and, by `leak`, in the parts that the circuit reads."""
        drawn = torch.randn(n, D_MODEL, generator=generator, dtype=torch.float64)
        read = torch.cat([self.token, self.position, self.previous, self.answer])
        kept = drawn @ self.rest.T @ self.rest + leak * drawn @ read.T @ read
        unit: Tensor = kept / kept.norm(dim=1, keepdim=True)
        return unit


def _head(
    parts: _Parts, name: str, leak: float, sharpness: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of q, k, v, each `[d_model, d_head]`, and of the output, `[d_head, d_model]`."""
    slots = torch.eye(D_HEAD, dtype=torch.float64)
    letters, places = slots[: len(LETTERS)], slots[:LENGTH]
    sharp = sharpness * D_HEAD**0.5
    read_token = parts.token.T @ letters
    if name == PREVIOUS_HEAD:
        key = parts.position[:-1].T @ places[1:]  # a key says: I stand before you
        return sharp * parts.position.T @ places, key, read_token, letters.T @ parts.previous
    if name == INDUCTION_HEAD:
        key = parts.previous.T @ letters
        return sharp * read_token, key, read_token, letters.T @ parts.answer
    q, k, v = torch.randn(3, D_MODEL, D_HEAD, generator=generator, dtype=torch.float64)
    return q, k, v / 32**0.5, parts.spread(D_HEAD, leak, generator)

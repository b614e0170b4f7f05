"""What models with set weights share: an orthogonal stream, heads that read and write it, decoys.

A hand-built model is an unmodified GPT-2 whose weights are set, not trained, so that its true
circuit is known. The residual stream is split into orthogonal parts, all of mean zero; each head of
the circuit reads some and writes one. All other heads are decoys: random ones, and mimics, which
attend as a head of the circuit does and write where nothing reads. MLPs are random and small where
the circuit has none.

The norms are GPT-2's own, with an epsilon so large beside the variance of any residual stream here
that each divides by a constant (to about one part in 10^4) and their weight undoes it. What makes
such a model hard is therefore what its heads and MLPs do, and nothing else.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Generator, Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from circuitprune.circuits.graph import Graph
from circuitprune.data.tasks.pair import Task
from circuitprune.errors import ConfigError

SPECIAL = ("<unk>", "<end>")
FIXED_PLACES = ("patch", "positional-mean")
"""Ablations under which a cut edge still carries what all prompts have in common at a place."""
ABLATIONS = (*FIXED_PLACES, "zero", "mean")

_EPSILON = 1e4
_LOGIT = 10.0
"""Logit of the answer; all other letters have 0, up to the leak."""


class Head(NamedTuple):
    """Weights of a head: q, k and v are `[d_model, d_head]`, `out` is `[d_head, d_model]`."""

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor | None = None
    """None: a mimic, which writes as a random head does."""


class Neurons(NamedTuple):
    """The first neurons of an MLP: `[d_model, neuron]`, `[neuron]` and `[neuron, d_model]`."""

    fan_in: Tensor
    bias: Tensor
    fan_out: Tensor


class Wiring(NamedTuple):
    """Heads by name and MLPs by layer; those that it does not name are random."""

    heads: dict[str, Head]
    mlps: Mapping[int, Neurons] = {}


class Parts:
    """Orthonormal directions of mean zero, which a LayerNorm leaves alone, by what each is for.

    `token` and `position` are what the embeddings write, `answer` is what the unembedding reads.
    """

    def __init__(self, d_model: int, sizes: dict[str, int], generator: Generator) -> None:
        random = torch.randn(d_model, d_model - 1, generator=generator, dtype=torch.float64)
        basis = torch.linalg.qr(random - random.mean(dim=0)).Q.T
        self.d_model = d_model
        *parts, self.rest = basis.split([*sizes.values(), len(basis) - sum(sizes.values())])
        self._named: dict[str, Tensor] = dict(zip(sizes, parts, strict=True))

    def __getitem__(self, name: str) -> Float[Tensor, "direction d_model"]:
        """The directions of a part."""
        return self._named[name]

    def spread(self, n: int, leak: float, generator: Generator) -> Float[Tensor, "n d_model"]:
        """Random unit vectors in the rest and, by `leak`, in the parts that the circuit reads."""
        drawn = torch.randn(n, self.d_model, generator=generator, dtype=torch.float64)
        read = torch.cat([*self._named.values()])
        kept = drawn @ self.rest.T @ self.rest + leak * drawn @ read.T @ read
        unit: Tensor = kept / kept.norm(dim=1, keepdim=True)
        return unit


@dataclass(frozen=True)
class HandBuilt:
    """A hand-built model, the task that it does, and the truth about it."""

    task: Task
    wire: Callable[[Parts, float], Wiring]
    """(parts, sharpness) -> the heads and neurons of the circuit, and the mimics."""
    content: tuple[str, ...]
    """The edges that carry what differs between prompts: the true circuit under `patch`."""
    constant: tuple[str, ...]
    """True edges that carry what all prompts share at a place: positions, or a fixed word."""
    letters: str
    marks: tuple[str, ...] = ()
    """Words beside the letters. The circuit's `token` has a direction for each."""
    parts: dict[str, int] = field(default_factory=dict)
    """Sizes of the parts between `position` and `answer`."""
    length: int = 10
    """Words in a prompt."""
    n_layers: int = 2
    n_heads: int = 4
    d_head: int = 16

    @property
    def graph(self) -> Graph:
        """The graph of the model."""
        return Graph(self.n_layers, self.n_heads, self.n_heads, d_model=self.d_model)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.n_heads * self.d_head

    @property
    def decoys(self) -> tuple[str, ...]:
        """The heads that no true edge touches."""
        names = [f"a{a}.h{h}" for a in range(self.n_layers) for h in range(self.n_heads)]
        return tuple(n for n in names if not any(n in edge for edge in self.content))

    def true_circuit(self, ablation: str = "patch") -> Bool[Tensor, " edge"]:
        """The edges that matter when the others are ablated this way, over `graph`.

        Under `patch` and `positional-mean`, cutting an edge that carries what all prompts share
        changes nothing. Under `zero` and `mean` it does.

        Raises:
            ConfigError: another ablation.
        """
        if ablation not in ABLATIONS:
            raise ConfigError(f"the true circuit is known for four ablations, not for {ablation!r}")
        constant = () if ablation in FIXED_PLACES else self.constant
        return self.graph.mask_of(self.content + constant)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Words between spaces are tokens."""
        words = [*SPECIAL, *self.marks, *self.letters]
        vocabulary = {word: i for i, word in enumerate(words)}
        whole = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
        whole.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(
            tokenizer_object=whole, unk_token="<unk>", eos_token="<end>", pad_token="<end>"
        )

    def model(
        self,
        leak: float = 0.2,
        sharpness: float = 20.0,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> GPT2LMHeadModel:
        """The model, in eval mode.

        Args:
            leak: How much of what decoys and random MLPs write falls on parts of the stream that
                the circuit reads, before it is scaled to its full norm. 0: nothing does, so the
                edges of the circuit are exactly those that matter. 1: they write in all directions
                alike, and move the logits a little.
            sharpness: Attention score, before the softmax, of the position that a head of the
                circuit looks for; the others have 0, up to the leak. The gradient of the attention
                falls as `exp(-sharpness)`.
            seed: Of the basis of the residual stream and of all random weights.
            dtype: Of the weights.

        Raises:
            ConfigError: a leak outside [0, 1].
        """
        if not 0 <= leak <= 1:
            raise ConfigError(f"leak must lie in [0, 1], got {leak}")
        with torch.random.fork_rng(devices=[]):  # transformers draws weights that are then replaced
            model = GPT2LMHeadModel(_config(self))
        generator = torch.Generator().manual_seed(seed)
        n_words = len(self.marks) + len(self.letters)
        ends = {"token": n_words, "position": self.length}, {"answer": len(self.letters)}
        parts = Parts(self.d_model, ends[0] | self.parts | ends[1], generator)
        weights = {name: parameter.data.zero_() for name, parameter in model.named_parameters()}
        for name, weight in weights.items():
            if "ln_" in name and name.endswith("weight"):
                weight.fill_(_EPSILON**0.5)
        weights["transformer.wte.weight"][len(SPECIAL) :] = parts["token"].float()
        weights["transformer.wpe.weight"][:] = parts["position"].float()
        weights["lm_head.weight"][-len(self.letters) :] = _LOGIT * parts["answer"].float()
        _fill_blocks(weights, self, parts, self.wire(parts, sharpness), leak, generator)
        model.to(dtype).eval()  # type: ignore[arg-type]
        return model

    def save(
        self,
        folder: str | Path,
        n_pairs: int = 1000,
        leak: float = 0.2,
        sharpness: float = 20.0,
        seed: int = 0,
    ) -> Path:
        """Writes the model, its tokenizer and `pairs.jsonl`, for `model.name` and `task.path`.

        Arguments as of `model`; `seed` decides the pairs too. Returns the folder.
        """
        folder = Path(folder)
        self.model(leak, sharpness, seed).save_pretrained(folder)
        self.tokenizer().save_pretrained(folder)
        stream = self.task.pairs(Random(seed))
        rows = [json.dumps(asdict(next(stream))) for _ in range(n_pairs)]
        (folder / "pairs.jsonl").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        return folder


def _fill_blocks(
    weights: dict[str, Tensor],
    built: HandBuilt,
    parts: Parts,
    wiring: Wiring,
    leak: float,
    generator: Generator,
) -> None:
    width, d_head = built.d_model, built.d_head
    for layer in range(built.n_layers):
        block = f"transformer.h.{layer}"
        qkv = weights[f"{block}.attn.c_attn.weight"].view(width, 3, width)
        for head in range(built.n_heads):
            made = wiring.heads.get(f"a{layer}.h{head}") or _random_head(width, d_head, generator)
            out = parts.spread(d_head, leak, generator) if made.out is None else made.out
            columns = slice(head * d_head, (head + 1) * d_head)
            qkv[:, :, columns] = torch.stack(made[:3], dim=1).float()
            weights[f"{block}.attn.c_proj.weight"][columns] = out.float()
        fan_in = weights[f"{block}.mlp.c_fc.weight"]
        fan_in[:] = torch.randn(width, width, generator=generator) / 2**0.5
        fan_out = weights[f"{block}.mlp.c_proj.weight"]
        fan_out[:] = 0.03 * parts.spread(width, leak, generator).float()
        if layer in wiring.mlps:
            neurons = wiring.mlps[layer]
            n = len(neurons.bias)
            fan_in[:, :n], fan_out[:n] = neurons.fan_in.float(), neurons.fan_out.float()
            weights[f"{block}.mlp.c_fc.bias"][:n] = neurons.bias.float()


def _random_head(d_model: int, d_head: int, generator: Generator) -> Head:
    q, k, v = torch.randn(3, d_model, d_head, generator=generator, dtype=torch.float64)
    return Head(q, k, v / (2 * d_head) ** 0.5)


def _config(built: HandBuilt) -> GPT2Config:
    return GPT2Config(
        vocab_size=len(SPECIAL) + len(built.marks) + len(built.letters),
        n_positions=built.length,
        n_embd=built.d_model,
        n_layer=built.n_layers,
        n_head=built.n_heads,
        n_inner=built.d_model,
        layer_norm_epsilon=_EPSILON,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=None,
    )

"""A model that does induction by construction, so that its true circuit is known.

`[A] [B] ... [A] -> [B]`, in a hand-built GPT-2 (`handmade`) of two layers, four heads and width 64.
The circuit has three parts of the stream beside the answer: `token`, `position`, `previous`.

- `a0.h2` attends from each position to the one before and copies its token into `previous`.
- `a1.h1` attends to the position whose `previous` is the current token, and copies the token there
  into `answer`: K-composition, the induction head of Olsson et al. 2022 (arXiv 2209.11895) and
  Elhage et al. 2021.
- The unembedding reads `answer` alone.
- The six other heads have random weights and outputs as large as those two; MLPs are random and
  small. `leak` says how much of what they write falls where the circuit reads.
"""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from circuitprune.circuits.graph import Graph
from circuitprune.data.tasks.pair import Pair, choose_corruption
from circuitprune.errors import old_names
from circuitprune.models.zoo.handmade import HandBuilt, Head, Parts, Wiring

LETTERS = "abcdefghijklmn"
LENGTH = 10
"""Words in a prompt: different letters, the last of them one of the earlier."""
D_HEAD = 16

PREVIOUS_HEAD, INDUCTION_HEAD = "a0.h2", "a1.h1"

CARRIES_CONTENT = (
    f"input->{PREVIOUS_HEAD}<v>",
    f"input->{INDUCTION_HEAD}<q>",
    f"{PREVIOUS_HEAD}->{INDUCTION_HEAD}<k>",
    f"input->{INDUCTION_HEAD}<v>",
    f"{INDUCTION_HEAD}->logits",
)
CARRIES_POSITION = (f"input->{PREVIOUS_HEAD}<q>", f"input->{PREVIOUS_HEAD}<k>")


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


def _wire(parts: Parts, sharpness: float) -> Wiring:
    slots = torch.eye(D_HEAD, dtype=torch.float64)
    letters, places = slots[: len(LETTERS)], slots[:LENGTH]
    sharp = sharpness * D_HEAD**0.5
    token, position = parts["token"].T @ letters, parts["position"]
    before = position[:-1].T @ places[1:]  # a key says: I stand before you
    looks_back = Head(sharp * position.T @ places, before, token, letters.T @ parts["previous"])
    induces = Head(sharp * token, parts["previous"].T @ letters, token, letters.T @ parts["answer"])
    return Wiring({PREVIOUS_HEAD: looks_back, INDUCTION_HEAD: induces})


INDUCTION = HandBuilt(
    Induction(),
    _wire,
    CARRIES_CONTENT,
    CARRIES_POSITION,
    LETTERS,
    parts={"previous": len(LETTERS)},
    length=LENGTH,
    d_head=D_HEAD,
)
DISTRACTORS = INDUCTION.decoys


def induction_graph() -> Graph:
    """The graph of the model: 110 edges."""
    return INDUCTION.graph


def true_circuit(ablation: str = "patch") -> Bool[Tensor, " edge"]:
    """The edges that matter when the others are ablated this way: `HandBuilt.true_circuit`.

    Five edges carry tokens. Two more carry the positions by which the previous-token head attends.
    A corrupt prompt has the same positions, and so has the mean at each position: under `patch` and
    `positional-mean` cutting those two changes nothing. Under `zero` and `mean` it does.
    """
    return INDUCTION.true_circuit(ablation)


def induction_model(
    leak: float = 0.2,
    sharpness: float = 20.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> GPT2LMHeadModel:
    """The model, in eval mode; arguments as of `HandBuilt.model`."""
    return INDUCTION.model(leak, sharpness, seed, dtype)


def induction_tokenizer() -> PreTrainedTokenizerFast:
    """Letters between spaces are tokens."""
    return INDUCTION.tokenizer()


def save_induction(
    folder: str | Path,
    n_pairs: int = 1000,
    leak: float = 0.2,
    sharpness: float = 20.0,
    seed: int = 0,
) -> Path:
    """Writes the model, its tokenizer and `pairs.jsonl`; arguments as of `HandBuilt.save`."""
    return INDUCTION.save(folder, n_pairs, leak, sharpness, seed)


__getattr__ = old_names(__name__, {"SPECIAL": "models.zoo.handmade.SPECIAL"})

"""A model that names the letter said twice by construction: `. a b c d b e f g ? -> b`.

A hand-built GPT-2 (`handmade`) of two layers, four heads and width 96. A prompt is a start word,
eight letters, one of them twice, and a question mark.

- `a0.h1`, a duplicate-token head, attends from each letter to the same one before it and copies it
  into `twin`; where there is none, to the start word, which holds no letter.
- `m0` writes `flag` where `token` and `twin` are the same letter: a step per letter, flat on both
  sides, made of two neurons.
- `a1.h2` attends from the question mark to the flag and copies the letter there into `answer`.
- `a0.h3` and `a1.h0` mimic the two heads: the same queries, keys and values, written where nothing
  reads.
- `a1.h3` attends as `a1.h2` does and raises all letters' logits alike, by an amount that depends on
  the letter it sees: much is written to the logits, and no probability moves.
- The other heads are random, and so are the neurons of `m0` that the step does not need.

An edge into a saturated step is hidden from a gradient at the clean run as one into a saturated
softmax is, and recomputing the softmax does not show it.
"""

from collections.abc import Iterator
from random import Random

import torch

from circuitprune.data.tasks.pair import Pair, choose_corruption
from circuitprune.models.zoo.handmade import HandBuilt, Head, Neurons, Parts, Wiring

LETTERS = "abcdefghijkl"
LENGTH = 10
D_HEAD = 24
DUPLICATE_HEAD, FLAG_MLP, NAMING_HEAD = "a0.h1", "m0", "a1.h2"
MIMICS = {"a0.h3": DUPLICATE_HEAD, "a1.h0": NAMING_HEAD}
EVEN_HEAD = "a1.h3"

CARRIES_CONTENT = (
    f"input->{DUPLICATE_HEAD}<q>",
    f"input->{DUPLICATE_HEAD}<k>",
    f"input->{DUPLICATE_HEAD}<v>",
    f"input->{FLAG_MLP}",
    f"{DUPLICATE_HEAD}->{FLAG_MLP}",
    f"{FLAG_MLP}->{NAMING_HEAD}<k>",
    f"input->{NAMING_HEAD}<v>",
    f"{NAMING_HEAD}->logits",
)
CARRIES_MARK = (f"input->{NAMING_HEAD}<q>",)

_STEEP = 20.0
"""Slope of the two neurons of a step; it rises from 0 to 1 between 1.4 and 1.6 letters."""


class Duplicate:
    """Prompts of eight letters, one of them twice: the answer.

    The corrupt prompt has the same seven letters, another of them twice, agrees with the clean one
    nowhere but in the two marks, and its second mention stands where the clean prompt has neither
    mention. So each edge of the true circuit, patched alone, changes the answer.
    """

    name = "duplicate"
    corruptions = ("deranged",)

    def pairs(self, rng: Random, corruption: str = "") -> Iterator[Pair]:
        """Endless pairs."""
        kind, number = choose_corruption(self, corruption), 0
        while True:
            letters = rng.sample(LETTERS, 7)
            answer, wrong = rng.sample(letters, 2)
            clean, corrupt = (rng.sample([*letters, x], 8) for x in (answer, wrong))
            agree = any(a == b for a, b in zip(clean, corrupt, strict=True))
            if agree or clean[max(i for i in range(8) if corrupt[i] == wrong)] == answer:
                continue
            yield Pair(
                f"duplicate-{number:06d}",
                " ".join([".", *clean, "?"]),
                " ".join([".", *corrupt, "?"]),
                (f" {answer}",),
                (f" {wrong}",),
                kind,
            )
            number += 1


def _wire(parts: Parts, sharpness: float) -> Wiring:
    n = len(LETTERS)
    slots = torch.eye(D_HEAD, dtype=torch.float64)
    letters, places, always = slots[:n], slots[n : n + LENGTH], slots[-1:]
    sharp = sharpness * D_HEAD**0.5
    token, position = parts["token"][2:].T @ letters, parts["position"]
    # A question mark, less the start word: in the mean of a prompt's words the two cancel.
    asked = parts["token"][1:2] - parts["token"][:1]
    # A letter scores 1 at its like, -1 at itself, and 1/2 at the start word.
    start = position[:1].T @ always / 2
    twins = Head(
        sharp * (token + position.T @ places + position.T @ always.expand(LENGTH, -1)),
        token - 2 * position.T @ places + start,
        token,
        letters.T @ parts["twin"],
    )
    names = Head(
        sharp * asked.T @ always, parts["flag"].T @ always, token, letters.T @ parts["answer"]
    )
    mimics = {"a0.h3": twins._replace(out=None), "a1.h0": names._replace(out=None)}
    amounts = torch.linspace(0, 1, n, dtype=torch.float64)
    even = torch.outer(amounts @ letters, parts["answer"].sum(dim=0))
    heads = {DUPLICATE_HEAD: twins, NAMING_HEAD: names, EVEN_HEAD: names._replace(out=even)}
    return Wiring(heads | mimics, {0: _steps(parts)})


def _steps(parts: Parts) -> Neurons:
    """Per letter, `gelu(s (x - 1.4)) - gelu(s (x - 1.6))`, where x is `token + twin` of it."""
    n = len(LETTERS)
    both = _STEEP * (parts["token"][2:] + parts["twin"]).T
    bias = -_STEEP * torch.tensor([1.4, 1.6], dtype=torch.float64).repeat_interleave(n)
    up = (parts["flag"] / (0.2 * _STEEP)).expand(n, -1)
    return Neurons(torch.cat([both, both], dim=1), bias, torch.cat([up, -up]))


DUPLICATE = HandBuilt(
    Duplicate(),
    _wire,
    CARRIES_CONTENT,
    CARRIES_MARK,
    LETTERS,
    marks=(".", "?"),
    parts={"twin": len(LETTERS), "flag": 1},
    length=LENGTH,
    d_head=D_HEAD,
)

"""A model that looks a letter up twice by construction: `a b ... b c ... a -> c`.

A hand-built GPT-2 (`handmade`) of three layers, four heads and width 96. A prompt is a start word,
four pairs of letters that make two chains of two, in any order, and the first letter of a chain.

- `a0.h2` attends from the second letter of each pair to the first and copies it into `previous`;
  from everywhere else to the start word, which holds no letter.
- `a1.h1` at the end attends to the pair of the letter asked for and copies its second into `hop`.
- `a2.h3` reads its query from `hop`, attends to the pair of that letter, and copies its second into
  `answer`: Q-composition upon K-composition (Elhage et al. 2021).
- `a0.h0`, `a1.h3` and `a2.h1` mimic the three: the same queries, keys and values, written where
  nothing reads.
- `a2.h0` attends as `a2.h3` does and raises all letters' logits alike, by an amount that depends on
  the letter it sees: much is written to the logits, and no probability moves.
- The other heads are random.
"""

from collections.abc import Iterator
from random import Random

import torch

from circuitprune.data.tasks.pair import Pair, choose_corruption
from circuitprune.models.zoo.handmade import HandBuilt, Head, Parts, Wiring

LETTERS = "abcdefghijkl"
LENGTH = 10
D_HEAD = 24
PREVIOUS_HEAD, FIRST_HEAD, SECOND_HEAD = "a0.h2", "a1.h1", "a2.h3"
MIMICS = {"a0.h0": PREVIOUS_HEAD, "a1.h3": FIRST_HEAD, "a2.h1": SECOND_HEAD}
EVEN_HEAD = "a2.h0"

CARRIES_CONTENT = (
    f"input->{PREVIOUS_HEAD}<v>",
    f"input->{FIRST_HEAD}<q>",
    f"{PREVIOUS_HEAD}->{FIRST_HEAD}<k>",
    f"input->{FIRST_HEAD}<v>",
    f"{FIRST_HEAD}->{SECOND_HEAD}<q>",
    f"{PREVIOUS_HEAD}->{SECOND_HEAD}<k>",
    f"input->{SECOND_HEAD}<v>",
    f"{SECOND_HEAD}->logits",
)
CARRIES_POSITION = (f"input->{PREVIOUS_HEAD}<q>", f"input->{PREVIOUS_HEAD}<k>")


class TwoHop:
    """Two chains `a b c` and `d e f`, as shuffled pairs; asked for `a`, the answer is `c`.

    The corrupt prompt has the same letters in other roles, agrees with the clean one nowhere but in
    the start word, and passes through another letter to another answer. So each edge of the true
    circuit, patched alone, changes the answer.
    """

    name = "two_hop"
    corruptions = ("deranged",)

    def pairs(self, rng: Random, corruption: str = "") -> Iterator[Pair]:
        """Endless pairs."""
        kind, number = choose_corruption(self, corruption), 0
        while True:
            letters = rng.sample(LETTERS, 6)
            clean, corrupt = _prompt(letters, rng), _prompt(rng.sample(letters, 6), rng)
            (words, through, answer), (others, via, wrong) = clean, corrupt
            agree = any(a == b for a, b in zip(words[1:], others[1:], strict=True))
            if agree or through == via or answer == wrong:
                continue
            yield Pair(
                f"two_hop-{number:06d}",
                " ".join(words),
                " ".join(others),
                (f" {answer}",),
                (f" {wrong}",),
                kind,
            )
            number += 1


def _prompt(letters: list[str], rng: Random) -> tuple[list[str], str, str]:
    """The words, the letter in between, and the answer."""
    a, b, c, d, e, f = letters
    links = rng.sample([(a, b), (b, c), (d, e), (e, f)], 4)
    return [".", *(letter for link in links for letter in link), a], b, c


def _wire(parts: Parts, sharpness: float) -> Wiring:
    slots = torch.eye(D_HEAD, dtype=torch.float64)
    letters, places = slots[: len(LETTERS)], slots[:LENGTH]
    sharp = sharpness * D_HEAD**0.5
    token, position = parts["token"][1:].T @ letters, parts["position"]
    previous = parts["previous"].T @ letters
    looked_for = [i - 1 if i in (2, 4, 6, 8) else 0 for i in range(LENGTH)]
    true = {
        PREVIOUS_HEAD: Head(
            sharp * position.T @ places,
            position[looked_for].T @ places,
            token,
            letters.T @ parts["previous"],
        ),
        FIRST_HEAD: Head(sharp * token, previous, token, letters.T @ parts["hop"]),
        SECOND_HEAD: Head(
            sharp * parts["hop"].T @ letters, previous, token, letters.T @ parts["answer"]
        ),
    }
    mimics = {name: true[like]._replace(out=None) for name, like in MIMICS.items()}
    amounts = torch.linspace(0, 1, len(LETTERS), dtype=torch.float64)
    even = torch.outer(amounts @ letters, parts["answer"].sum(dim=0))
    return Wiring(true | mimics | {EVEN_HEAD: true[SECOND_HEAD]._replace(out=even)})


TWO_HOP = HandBuilt(
    TwoHop(),
    _wire,
    CARRIES_CONTENT,
    CARRIES_POSITION,
    LETTERS,
    marks=(".",),
    parts={"previous": len(LETTERS), "hop": len(LETTERS)},
    length=LENGTH,
    n_layers=3,
    d_head=D_HEAD,
)

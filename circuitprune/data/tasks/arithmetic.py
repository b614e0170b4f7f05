"""Sums and differences as MIB asks for them: "Q: How much is 57 plus 38? A: ", then "95"."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, product
from random import Random
from typing import NamedTuple

from circuitprune.data.tasks.pair import OneToken, Pair, choose_corruption
from circuitprune.errors import DataError

TEMPLATE = "Q: How much is {a} {operator} {b}? A:"


class Form(NamedTuple):
    """How large the numbers are, and where the space before the answer stands."""

    digits: int
    """Of each operand."""
    at_end: bool
    """Whether the prompt ends with the space, as MIB's does, or the answer begins with it."""


FORMS = (Form(2, True), Form(2, False), Form(1, True), Form(1, False))
"""Tried in this order: MIB's own first."""


@dataclass(frozen=True)
class Arithmetic:
    """Two numbers, and what they add up to or leave.

    `random` takes two other numbers, and their result is the wrong answer. MIB keeps pairs whose
    results are one token each; so do we, and where a tokenizer leaves too few, because it cuts
    numbers into digits, operands have one digit. The group is the result.

    Source: Mueller et al. 2025, "MIB" (arXiv:2504.13151), `arithmetic_addition` and
    `arithmetic_subtraction`.
    """

    operator: str = "plus"
    """`plus` or `minus`."""
    form: Form = FORMS[0]
    """What `fitted` sets."""
    results: tuple[str, ...] | None = None
    """Results that are drawn; None draws all."""

    corruptions = ("random",)

    def __post_init__(self) -> None:
        if self.operator not in ("plus", "minus"):
            raise DataError(f"arithmetic is plus or minus, got {self.operator!r}")
        if len({result for _, _, result in self._questions()}) < 2:
            raise DataError(
                f"{self.name} has no two results that are one token of this tokenizer after its "
                f"prompts, such as {self._prompt(2, 3)!r}; it needs one that keeps numbers whole"
            )

    @property
    def name(self) -> str:
        """The key in `TASKS`."""
        return {"plus": "mib_addition", "minus": "mib_subtraction"}[self.operator]

    def fitted(self, one_token: OneToken) -> "Arithmetic":
        """The task with the form in which most questions have an answer of one token.

        Of forms that keep at least half of their questions, the first; so MIB's where that can be.
        """

        def kept(form: Form) -> tuple[float, tuple[str, ...]]:
            task = replace(self, form=form, results=None)
            questions = task._questions()
            before = "" if form.at_end else " "
            known = {result for _, _, result in questions}
            example = task._prompt(questions[0][0], questions[0][1])
            whole = one_token(example, [before + result for result in sorted(known)])
            results = tuple(sorted(r for r in known if before + r in whole))
            return sum(r in results for _, _, r in questions) / len(questions), results

        found = {form: kept(form) for form in FORMS}
        good = [form for form, (share, _) in found.items() if share >= 0.5]
        best = good[0] if good else max(FORMS, key=lambda form: found[form][0])
        return replace(self, form=best, results=found[best][1])

    def pairs(self, rng: Random, corruption: str = "") -> Iterator[Pair]:
        """Endless pairs, questions uniform; see `Task.pairs`."""
        kind, questions = choose_corruption(self, corruption), self._questions()
        return (self._pair(rng, number, kind, questions) for number in count())

    def _pair(
        self, rng: Random, number: int, kind: str, questions: list[tuple[int, int, str]]
    ) -> Pair:
        a, b, right = rng.choice(questions)
        c, d, wrong = rng.choice(questions)
        while wrong == right:
            c, d, wrong = rng.choice(questions)
        before = "" if self.form.at_end else " "
        return Pair(
            id=f"{self.name}-{number:06d}",
            clean=self._prompt(a, b),
            corrupt=self._prompt(c, d),
            answers=(before + right,),
            wrong=(before + wrong,),
            kind=kind,
            group=right,
            meta={"operands": f"{a} {b}"},
        )

    def _prompt(self, a: int, b: int) -> str:
        text = TEMPLATE.format(a=a, b=b, operator=self.operator)
        return f"{text} " if self.form.at_end else text

    def _questions(self) -> list[tuple[int, int, str]]:
        """All operands of that many digits whose result is not negative and may be drawn."""
        least = 10 ** (self.form.digits - 1)
        sign = 1 if self.operator == "plus" else -1
        found = [
            (a, b, str(a + sign * b))
            for a, b in product(range(least, 10**self.form.digits), repeat=2)
            if a + sign * b >= 0
        ]
        return found if self.results is None else [q for q in found if q[2] in self.results]

"""What a model of the zoo is trained on, step by step: shares of kinds of text."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random

from circuitprune.errors import ModelError
from circuitprune.models.zoo.corpus import SHARES, Row, draw_rows
from circuitprune.models.zoo.distractors import DISTRACTORS


@dataclass(frozen=True)
class Stage:
    """Steps with one mixture of texts.

    A share is of a task of `SEEN` or of a kind of `DISTRACTORS`; plain sentences are the rest.
    """

    steps: int
    shares: Mapping[str, float]
    head_penalty: float = 0.0
    """Nats for each unit of sum over heads of the square root of the norm of `W_O`."""
    rise: int = 0
    """First steps of the stage, over which the penalty comes in from 0."""

    def penalty_at(self, step: int) -> float:
        """`head_penalty` at a step of the stage."""
        return self.head_penalty * (min(1.0, step / self.rise) if self.rise else 1.0)


@dataclass(frozen=True)
class Recipe:
    """A training's stages, one behind the other, and what the card says of it."""

    name: str
    stages: tuple[Stage, ...]
    batch_size: int
    minutes: int = 0
    """About how long it takes on one core, for the card."""
    text: str = ""
    """What the model reads, for the card: lines that follow a dash."""

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(stage.steps for stage in self.stages)

    def at(self, step: int) -> tuple[Stage, int]:
        """The stage of a step and the step in it; behind the end the last stage goes on."""
        for stage in self.stages[:-1]:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        return self.stages[-1], step

    def rows(self, rng: Random, number: int, step: int) -> list[Row]:
        """Rows of one training batch: each share in order, then plain sentences."""
        return draw_rows(rng, number, self.at(step)[0].shares, DISTRACTORS)

    def penalty_at(self, step: int) -> float:
        """The weight of the penalty on heads at a step."""
        stage, inside = self.at(step)
        return stage.penalty_at(inside)

    def shortened(self, steps: int) -> "Recipe":
        """The first so many steps of it, as a recipe."""
        kept, left = [], steps
        for stage in self.stages:
            if left:
                kept.append(replace(stage, steps=min(stage.steps, left)))
                left -= kept[-1].steps
        return replace(self, stages=tuple(kept))


TASK_PROMPTS = """\
prompts of the four tasks with their answers, corrupt prompts included (one IOI prompt in
  six has three names, and its two possible answers are equally likely), and plain sentences about
  the same names, years and nouns."""
DISTRACTING = """\
Of five IOI prompts one is plain; before the others stands
  a sentence on another pair of names, of which either pair may act, or one more mention of a name,
  so that counting names does not tell the answer. The first steps read these and lists of names
  that repeat. A penalty on heads closes those that are not needed."""

PLAIN = Recipe("plain", (Stage(3000, SHARES),), batch_size=128, minutes=15, text=TASK_PROMPTS)
"""What `zoo/small` was made by."""

HARD_FIRST = {"two_pairs": 0.43, "beside": 0.14, "name_list": 0.14, "pronoun": 0.06}
ALL_KINDS = {
    "ioi": 0.06, "mention_before": 0.03, "two_pairs": 0.2, "greater_than": 0.12, "sva": 0.1,
    "pronoun": 0.12, "name_list": 0.06, "beside": 0.06,
}  # fmt: skip
MORE_PLAIN = {
    "ioi": 0.06, "mention_before": 0.03, "two_pairs": 0.12, "greater_than": 0.12, "sva": 0.14,
    "pronoun": 0.06, "name_list": 0.04, "beside": 0.04, "held_out_noun": 0.06,
}  # fmt: skip
COMPOSED = Recipe(
    "composed",
    (
        Stage(1500, HARD_FIRST),
        Stage(4000, ALL_KINDS, head_penalty=0.03, rise=1500),
        Stage(1500, MORE_PLAIN, head_penalty=0.01),
    ),
    batch_size=64,
    minutes=25,
    text=f"{TASK_PROMPTS} {DISTRACTING}",
)
"""What makes a model that looks names up: hard texts until they are learned, all, then plainer."""

RECIPES = {recipe.name: recipe for recipe in (PLAIN, COMPOSED)}


def find_recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        ModelError: there is none.
    """
    if name not in RECIPES:
        raise ModelError(f"no recipe {name!r}; recipes: {', '.join(RECIPES)}")
    return RECIPES[name]

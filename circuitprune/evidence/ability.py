"""Whether the model can do the task at all: without that, there is no circuit of it to find."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from circuitprune.data.encoding import Encoder, Example
from circuitprune.data.pairs import PairData
from circuitprune.data.tasks.pair import CHOICES
from circuitprune.engine.references import References
from circuitprune.errors import DataError
from circuitprune.files.text import counted
from circuitprune.metrics import Evidence


@dataclass(frozen=True)
class Ability:
    """How often the full model is right."""

    accuracy: float
    """Share of pairs."""
    n: int
    """Pairs."""
    chance: float
    """Accuracy of a model that knows nothing of the task."""
    among: str
    """What the right answer stands above where the model is right."""

    def __str__(self) -> str:
        return (
            f"right on {self.accuracy:.1%} of {counted(self.n, 'training pair')}, among "
            f"{self.among} (chance {self.chance:.0%})"
        )


def ability(
    references: References, tokenizer: PreTrainedTokenizerBase, data: PairData, full: Evidence
) -> Ability:
    """Of the full model on the training pairs.

    It is right where it prefers an answer to all wrong ones; where the pairs name `CHOICES`, to all
    other choices of the prompt. That differs: the wrong answer of MIB's multiple choice is a number
    where the prompt has letters, which no model takes for one.

    Args:
        references: Whose full model it is.
        tokenizer: The model's.
        data: Of which the training pairs are looked at.
        full: The full model on them, by answers and wrong answers.
    """
    if CHOICES not in data.splits["train"][0].pair.meta:
        return Ability(full.accuracy, full.n, 0.5, "answers and wrong answers")
    encoder, right, size = Encoder(tokenizer, (), None), 0, 0.0
    batches = data.batches("train")
    examples = iter(data.splits["train"])
    for batch in batches:
        logits = references.full_logits(batch.to(references.gated.device)).float().cpu()
        for row, example in zip(logits, examples, strict=False):
            tokens = _choices(encoder, example)
            size += 1 / len(tokens)
            right += max(tokens, key=lambda token: row[token].item()) in example.answers
    n = len(data.splits["train"])
    return Ability(right / n, n, size / n, "the choices of each prompt")


def _choices(encoder: Encoder, example: Example) -> list[int]:
    """The tokens of all choices of a prompt, the answers among them."""
    named = example.pair.meta.get(CHOICES, "").split("|")
    found = encoder.next_tokens(example.pair.clean, named).values()
    return list(dict.fromkeys([*example.answers, *found]))


def refuse_unable(found: Ability, least: float) -> None:
    """Nothing, if the model is right often enough.

    Raises:
        DataError: it is not; says how often it is, among what, and what chance would give.
    """
    if found.accuracy < least:
        raise DataError(
            f"the model cannot do this task: it is {found}, below task.min_accuracy={least:.1%}, "
            "and a circuit of a failing model explains nothing. Use another model or task, or "
            "lower task.min_accuracy."
        )

"""How good the shipped model is, and the card that says so."""

from random import Random

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from circuitprune.data.pairs import collate, encode, pad_token
from circuitprune.data.tasks import Task
from circuitprune.files.text import table
from circuitprune.models.zoo.corpus import (
    ALL,
    HELD_OUT,
    HELD_OUT_CENTURIES,
    HELD_OUT_EVENTS,
    HELD_OUT_FEMALE,
    HELD_OUT_IOI,
    HELD_OUT_MALE,
    HELD_OUT_NOUNS,
    HELD_OUT_YEARS,
)
from circuitprune.models.zoo.recipes import Recipe


@torch.no_grad()
def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    number: int,
    seed: int,
) -> dict[str, float]:
    """How well a model does a task on `number` pairs of this seed, as fractions of all pairs.

    `right`: the answer set has more probability than the wrong set. `top1`: the most likely token
    of all is an answer. `probability`: mean probability of the answer set.
    """
    examples, _ = encode(task.pairs(Random(seed)), tokenizer, number)
    batch = collate(examples, range(len(examples)), pad_token(tokenizer))
    logits = model(input_ids=batch.clean, attention_mask=batch.mask.long()).logits
    probs = logits[torch.arange(len(examples)), batch.last].softmax(-1)
    answers, wrong = _mass(probs, batch.answers), _mass(probs, batch.wrong)
    top = probs.argmax(-1, keepdim=True)
    return {
        "right": (answers > wrong).float().mean().item(),
        "top1": (batch.answers == top).any(1).float().mean().item(),
        "probability": answers.mean().item(),
    }


def _mass(
    probs: Float[Tensor, "batch vocab"], tokens: Int[Tensor, "batch n_token"]
) -> Float[Tensor, " batch"]:
    """Probability of a set of tokens, padded with -1, in each row."""
    return (probs.gather(1, tokens.clamp(min=0)) * (tokens >= 0)).sum(1)


Measures = dict[str, dict[str, dict[str, float]]]
"""`held out` or `all` -> task -> what `measure` returns."""


def measure_all(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, number: int, seed: int
) -> Measures:
    """Each task on entities held out of its training prompts, and on all its entities."""
    return {
        kind: {name: measure(model, tokenizer, task, number, seed) for name, task in tasks.items()}
        for kind, tasks in (("held out", HELD_OUT), ("all", ALL))
    }


CARD = """\
---
license: mit
library_name: transformers
pipeline_tag: text-generation
---

# zoo/small

A GPT-2 of 4 layers, 8 heads and width 128 that does the four generated tasks of circuitprune,
small enough to ship with the package. It knows {vocabulary} words and reads at most
{positions} tokens; use it for demonstrations and tests.

- Tokens: whole words with their leading space, as in GPT-2 (`Mary` and ` Mary` are two tokens);
  years are a century and two digits (` 17`, `32`); other words are `<unk>`. No BOS token.
- Training: {steps:,} batches of {batch_size} generated texts, AdamW, next-word prediction with
  extra weight on the answers; about {minutes} minutes on one core. These files are what
  `python scripts/train_zoo.py --recipe {recipe} --seed {seed} --steps {steps}` writes; on another
  kind of processor or with another version of torch, the last digits of the weights differ.
- Text: {text}

## Accuracy

On {n_test:,} fresh pairs of each task. *Right*: the answers together are more likely than the wrong
answers together. *Top 1*: the most likely of all tokens is an answer. *P(answers)*: their mean
probability.

{table}

*Held out* means that every name, year or noun below is absent from the task's training prompts:

- ioi names: {ioi}
- greater_than nouns: {events}
- greater_than century: {centuries}; start years: {years} (as answers they do occur)
- sva nouns: {nouns}
- pronoun names: {pronoun}

The model has met these words in the other tasks and in plain sentences that are not prompts of the
task, such as "Mary is a kind girl." or "After the year 1506 came the year 1507."
"""


def model_card(
    measures: Measures,
    n_test: int,
    seed: int,
    recipe: Recipe,
    vocabulary: int,
    positions: int,
) -> str:
    """The text of the model's `README.md`, with its measured accuracies."""
    rows = [
        (name, kind, f"{m['right']:.1%}", f"{m['top1']:.1%}", f"{m['probability']:.3f}")
        for kind, tasks in measures.items()
        for name, m in tasks.items()
    ]
    return CARD.format(
        table="\n".join(table(("task", "entities", "right", "top 1", "P(answers)"), rows)),
        n_test=n_test,
        seed=seed,
        recipe=recipe.name,
        text=recipe.text,
        minutes=recipe.minutes,
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        vocabulary=vocabulary,
        positions=positions,
        ioi=", ".join(HELD_OUT_IOI),
        events=", ".join(HELD_OUT_EVENTS),
        centuries=", ".join(HELD_OUT_CENTURIES),
        years=", ".join(HELD_OUT_YEARS),
        nouns=", ".join(one for one, _ in HELD_OUT_NOUNS),
        pronoun=", ".join(HELD_OUT_FEMALE + HELD_OUT_MALE),
    )

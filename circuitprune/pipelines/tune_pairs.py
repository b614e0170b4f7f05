"""The pairs that a model is tuned on, as the config wants them, and those it is measured on."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from circuitprune.data.batches import Batch, by_group
from circuitprune.data.pairs import PairData, prepare
from circuitprune.data.spans import deal, span_names
from circuitprune.data.tasks import get_task
from circuitprune.errors import ConfigError
from circuitprune.models.loading import longest_prompt
from circuitprune.pipelines.tune_config import TuneConfig
from circuitprune.training.hiding import Hiding


def arrange(config: TuneConfig, data: PairData) -> Hiding | None:
    """The training pairs in the order, and with the spans, that the config needs; what it hides.

    Raises:
        DataError: groups that cannot be drawn together, or pairs without tags.
        ConfigError: a tag that no pair has.
    """
    if config.by_group:
        data.splits["train"], data.together = by_group(data.splits["train"], data.batch_size)
    return _hiding(config, data)


def _hiding(config: TuneConfig, data: PairData) -> Hiding | None:
    """What the config hides, and the tokens of the pairs dealt to spans for it."""
    hidden = config.hidden
    if not hidden.steps:
        return None
    names = span_names("tags", data.splits)
    tags = (*hidden.places, hidden.beyond)
    if unknown := [tag for tag in tags if tag not in names]:
        raise ConfigError(
            f"hidden: no pair of {config.task.name!r} has tag {unknown[0]!r}; there are "
            f"{', '.join(names)}"
        )
    data.splits = deal(data.splits, "tags")
    *places, beyond = map(names.index, tags)
    return Hiding(hidden.steps, tuple(places), beyond)


def pairs_to_measure(
    name: str, config: TuneConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[Batch]:
    """Pairs of another task to measure on."""
    data = prepare(
        get_task(name),
        tokenizer,
        n_train=0,
        n_val=0,
        n_test=config.n_measured,
        seed=config.task.seed + 1,
        bos=config.task.bos,
        batch_size=config.train.batch_size,
        max_length=longest_prompt(model.config),
    )
    return data.batches("test")

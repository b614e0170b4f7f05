"""The pairs that a config describes, in tokens and split."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from circuitprune.circuits.span_graph import Span, spans_of
from circuitprune.config import RunConfig
from circuitprune.data.exchanged import with_exchanges
from circuitprune.data.pairs import PairData, prepare
from circuitprune.data.spans import deal, span_names
from circuitprune.data.splits import resampled
from circuitprune.data.tasks import Task, get_task
from circuitprune.models.loading import longest_prompt


def make_pairs(
    config: RunConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: Task | None = None,
) -> PairData:
    """The pairs of a run, split; the training pairs resampled if the config says so.

    Raises:
        DataError: too few pairs that this tokenizer and model can use.
        ModelError: a tokenizer with more tokens than the model, one of which would be used.
    """
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    n_tokens = min(len(end.get_parameter("weight")) for end in ends)
    data = split_pairs(config, tokenizer, longest_prompt(model.config), source, n_tokens)
    if config.task.resample is not None:
        data.splits["train"] = resampled(data.splits["train"], config.task.resample)
    data.seed = config.train.seed
    return data


def split_pairs(
    config: RunConfig,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    source: Task | None = None,
    n_tokens: int | None = None,
) -> PairData:
    """The same before any resampling, without the model; with the copies of `task.exchanges`.

    Args:
        config: All settings.
        tokenizer: The model's own.
        max_length: Longest prompt in tokens, BOS included.
        source: Of pairs, in place of the one that `config.task` names.
        n_tokens: Tokens that the model has embeddings for.

    Raises:
        DataError, ModelError: as `make_pairs`.
    """
    task = config.task
    data = prepare(
        source or get_task(task.name, task.path),
        tokenizer,
        n_train=task.n_train,
        n_val=task.n_val,
        n_test=task.n_test,
        seed=task.seed,
        corruption=task.corruption,
        split_by=task.split_by,
        batch_size=config.train.batch_size,
        bos=task.bos,
        max_length=max_length,
        n_tokens=n_tokens,
    )
    if task.exchanges:
        data = with_exchanges(
            data, tokenizer, task.exchanges, task.seed, task.bos, max_length, n_tokens
        )
    if config.spans != "none":
        data.splits = deal(data.splits, config.spans)
    return data


def spans_in(config: RunConfig, data: PairData) -> tuple[Span, ...]:
    """What is known of the spans that the tokens of a run's pairs are dealt to.

    Raises:
        DataError: as `deal`.
    """
    rows = [(one.spans, one.clean, one.corrupt) for side in data.splits.values() for one in side]
    return spans_of(span_names(config.spans, data.splits), rows, config.ablation != "patch")

"""Where a model holds the sentiment of a review, and how much of it lies along one direction.

Tigges et al. 2023, "Linear Representations of Sentiment in Large Language Models" (arXiv
2310.15154), on ToyMovieReview. Everything is denoising: the corrupt review is run, and values of
the clean one, which differs in adjective and verb alone, are put back. The normalised patch effect
is::

    (metric(patched) - metric(corrupt)) / (metric(clean) - metric(corrupt)),  of means over pairs

with a percentile bootstrap interval over the pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from circuitprune.data.batches import Batch, collate
from circuitprune.data.encoding import Encoder, encode, pad_token
from circuitprune.data.tasks.pair import fitted
from circuitprune.data.tasks.sentiment import Sentiment
from circuitprune.engine.progress import Progress, silent
from circuitprune.errors import DataError
from circuitprune.evidence.bootstrap import Bootstrap, Interval
from circuitprune.files.text import counted
from circuitprune.lens.directions import METHODS, direction
from circuitprune.metrics import logit_diff
from circuitprune.models.ports import Ports
from circuitprune.patching.stream_runs import Streams, StreamSwap, run_streams

Where = Mapping[str, Bool[Tensor, "batch pos"]]
"""Positions of each prompt by name."""
SUMMARIES = ("comma", "noun")
"""Tokens without a sentiment of their own that stand for what came before."""


@dataclass(frozen=True)
class Directed:
    """The stream in front of one layer put back at adjective and verb, whole and along a line."""

    layer: int
    method: str
    """`mean_difference`, `pca` or `random`."""
    full: Interval
    """Normalised patch effect of the whole stream."""
    along: Interval
    """The same along the direction."""
    share: Interval
    """`along / full`, as the ratio of means."""
    parts: float
    """Of held-out adjectives, the share on the right side of the training mean."""


@dataclass(frozen=True)
class Summarised:
    """What passes through one token: its stream pinned in front of every layer."""

    token: str
    """`adjective`, `verb`, `comma`, `noun`, `comma and noun` or `last`."""
    restored: Interval
    """Of the corrupt run with the clean run's streams there: normalised patch effect."""
    lost: Interval
    """Of the clean run with the corrupt run's: the share of the effect that is gone."""


@dataclass(frozen=True)
class SentimentDirection:
    """The direction of sentiment in one model, by layer, and its summary tokens.

    Directions are fitted on reviews of other adjectives and verbs than those that are patched.
    """

    model: str
    n_train: int
    n_test: int
    n_layers: int
    clean: float
    """Mean metric on the held-out reviews: mean over pairs of conclusions, right minus wrong."""
    corrupt: float
    directed: tuple[Directed, ...]
    summarised: tuple[Summarised, ...]

    def best(self, method: str = "mean_difference") -> Directed | None:
        """The layer with the largest effect along a direction; None where none is defined."""
        known = [o for o in self.directed if o.method == method and o.along.value is not None]
        return max(known, key=lambda one: one.along.value or 0.0, default=None)


def halves(task: Sentiment) -> tuple[Sentiment, Sentiment]:
    """The task on every other adjective and verb, and on those between: nothing in common.

    Raises:
        DataError: fewer than two words of a kind.
    """
    kinds = (*task.adjectives, *task.verbs)
    if min(map(len, kinds)) < 2:
        raise DataError(
            "directions are fitted on some words and tried on others; this tokenizer keeps fewer "
            f"than two whole of a kind: {', '.join(map(str, map(len, kinds)))}"
        )

    def half(start: int) -> Sentiment:
        adjectives, verbs = (
            (sides[0][start::2], sides[1][start::2]) for sides in (task.adjectives, task.verbs)
        )
        return replace(task, adjectives=adjectives, verbs=verbs)

    return half(0), half(1)


@dataclass(frozen=True)
class Reviews:
    """Pairs of reviews, and which clean ones are positive; their partners are the others."""

    batch: Batch
    positive: Bool[Tensor, " example"]

    def to(self, device: torch.device) -> "Reviews":
        """The same on a device."""
        return Reviews(self.batch.to(device), self.positive.to(device))


def reviews(
    tokenizer: PreTrainedTokenizerBase, n_train: int, n_test: int, seed: int
) -> tuple["Reviews", "Reviews"]:
    """Reviews to fit directions on, and reviews of other words to patch.

    Raises:
        DataError: too few that the tokenizer can spell.
    """
    task = fitted(Sentiment(), Encoder(tokenizer, (), None).one_token)
    assert isinstance(task, Sentiment)
    found = []
    for half, n in zip(halves(task), (n_train, n_test), strict=True):
        examples, dropped = encode(half.pairs(Random(seed)), tokenizer, n)
        if len(examples) < n:
            raise DataError(f"{len(examples)} of {counted(n, 'review')} fit: {dict(dropped)}")
        good = torch.tensor([one.pair.meta["sentiment"] == "positive" for one in examples])
        found.append(Reviews(collate(examples, range(n), pad_token(tokenizer)), good))
    return found[0], found[1]


def tokens_of(batch: Batch) -> dict[str, Bool[Tensor, "batch pos"]]:
    """Where a review's adjective, verb, comma, second noun and last token stand.

    Adjective and verb are where clean and corrupt differ; the comma stands behind the adjective,
    the noun of "This movie is" in front of the last token.

    Raises:
        DataError: prompts that do not differ in two tokens, or of several lengths.
    """
    differs = batch.clean != batch.corrupt
    if not bool((differs.sum(dim=1) == 2).all()) or not bool(batch.mask.all()):
        raise DataError("a review differs from its partner in two tokens; these are no such pairs")
    here = torch.arange(batch.clean.shape[1], device=batch.clean.device)
    first = differs.long().argmax(dim=1)
    second = here[-1] - differs.flip(1).long().argmax(dim=1)
    at = {
        "adjective": first,
        "verb": second,
        "comma": first + 1,
        "noun": batch.last - 1,
        "last": batch.last,
    }
    return {name: here == position[:, None] for name, position in at.items()}


class _Patches:
    """Clean and corrupt runs of held-out reviews, and what becomes of the metric in between."""

    def __init__(self, ports: Ports, of: Reviews, seed: int) -> None:
        self.ports, self.batch, self.positive = ports, of.batch, of.positive
        batch, self.at = of.batch, tokens_of(of.batch)
        clean, self.clean_streams = run_streams(ports, batch.clean_prompts)
        corrupt, self.corrupt_streams = run_streams(ports, batch.corrupt_prompts)
        self.clean, self.corrupt = self._metric(clean), self._metric(corrupt)
        generator = torch.Generator().manual_seed(seed)
        self.draws = Bootstrap.draw(len(batch), 1000, generator)

    def _metric(self, logits: Float[Tensor, "batch vocab"]) -> Float64[Tensor, " example"]:
        return logit_diff(logits, self.batch).double().cpu()

    def at_layer(
        self, layer: int, where: Bool[Tensor, "batch pos"], along: Tensor | None
    ) -> Float64[Tensor, " example"]:
        """The corrupt run's metric with the clean stream at a layer and some positions."""
        swap = StreamSwap(layer, self.clean_streams[layer], where, along)
        return self._metric(run_streams(self.ports, self.batch.corrupt_prompts, [swap])[0])

    def pinned(self, where: Bool[Tensor, "batch pos"], direction: str) -> Interval:
        """With streams at some positions those of the other run, in front of every layer."""
        noising = direction == "noising"
        values: Streams = self.corrupt_streams if noising else self.clean_streams
        prompts = self.batch.clean_prompts if noising else self.batch.corrupt_prompts
        swaps = [StreamSwap(layer, stream, where) for layer, stream in values.items()]
        found = self._metric(run_streams(self.ports, prompts, swaps)[0])
        ends = (self.corrupt, self.clean) if noising else (self.clean, self.corrupt)
        return self.draws.faithfulness(found, *ends)


@torch.no_grad()
def sentiment_direction(
    name: str,
    ports: Ports,
    train: Reviews,
    test: Reviews,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> SentimentDirection:
    """How much of the sentiment of a review lies along one direction, and where it is held.

    Args:
        name: What the model is called.
        ports: Of it.
        train: Reviews that directions are fitted on, at the adjective of both prompts.
        test: Reviews of other words.
        layers: In front of which the stream is patched; None for all.
        seed: Of the random direction and the resamples.
        progress: Told the patches that are done.

    Raises:
        DataError: pairs of another form.
        GraphError: a layer that the model does not have.
    """
    train, test = (one.to(ports.model.device) for one in (train, test))
    n_layers = ports.graph.n_layers
    chosen = tuple(range(n_layers)) if layers is None else tuple(layers)
    patches, fitting = _Patches(ports, test, seed), _Fitting(ports, train)
    both = patches.at["adjective"] | patches.at["verb"]
    total = len(chosen) * (len(METHODS) + 1)
    directed = []
    for layer in chosen:
        full = patches.at_layer(layer, both, None)
        for method in METHODS:
            line = fitting.direction(layer, method, seed)
            found = patches.at_layer(layer, both, line.unsqueeze(0))
            draws, ends = patches.draws, (patches.clean, patches.corrupt)
            directed.append(
                Directed(
                    layer,
                    method,
                    draws.faithfulness(full, *ends),
                    draws.faithfulness(found, *ends),
                    draws.faithfulness(found, full, patches.corrupt),
                    fitting.parts(layer, line, patches),
                )
            )
            progress(len(directed) + len(directed) // len(METHODS), total)
    summarised = tuple(
        Summarised(token, patches.pinned(where, "denoising"), patches.pinned(where, "noising"))
        for token, where in _tokens(patches.at).items()
    )
    means = (patches.clean.mean().item(), patches.corrupt.mean().item())
    return SentimentDirection(
        name, len(train.positive), len(test.positive), n_layers, *means, tuple(directed), summarised
    )


def _tokens(at: Where) -> Where:
    """Single tokens, then what sums up together."""
    comma, noun = (at[name] for name in SUMMARIES)
    return {**at, "comma and noun": comma | noun}


class _Fitting:
    """The streams of training reviews at their adjectives, positive and negative ones."""

    def __init__(self, ports: Ports, of: Reviews) -> None:
        batch, adjective = of.batch, tokens_of(of.batch)["adjective"]
        streams = [
            run_streams(ports, prompts)[1]
            for prompts in (batch.clean_prompts, batch.corrupt_prompts)
        ]
        self.values = {
            layer: torch.cat([one[layer][adjective] for one in streams]) for layer in streams[0]
        }
        self.positive = torch.cat([of.positive, ~of.positive])

    def direction(self, layer: int, method: str, seed: int) -> Float[Tensor, " d_model"]:
        """Of the streams in front of a layer."""
        return direction(self.values[layer], self.positive, method, seed)

    def parts(self, layer: int, line: Float[Tensor, " d_model"], patches: "_Patches") -> float:
        """Share of held-out clean adjectives on their side of the middle between both means."""
        along = self.values[layer] @ line
        middle = (along[self.positive].mean() + along[~self.positive].mean()) / 2
        found = patches.clean_streams[layer][patches.at["adjective"]] @ line > middle
        return float((found == patches.positive).double().mean())

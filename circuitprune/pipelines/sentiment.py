"""The direction of sentiment in a model, and the tokens that sum it up."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from circuitprune.data.checks import MANY, MANY_OR_0, SEED, broken, misfits, refuse
from circuitprune.errors import ConfigError
from circuitprune.evidence.sentiment import SentimentDirection, reviews, sentiment_direction
from circuitprune.files.text import show
from circuitprune.files.whole import write_atomic, write_json
from circuitprune.models.ports import Ports
from circuitprune.pipelines.given import frozen_model
from circuitprune.pipelines.setup import Loaded, Print
from circuitprune.runs.folder import claim
from circuitprune.runs.lock import locked, unusable
from circuitprune.runs.settings import read_settings, to_yaml
from circuitprune.views.pages.sentiment import sentiment_page
from circuitprune.views.progress import shown


@dataclass(frozen=True)
class SentimentConfig:
    """How the direction of sentiment is looked for."""

    n_train: int = 64
    """Pairs of reviews that directions are fitted on."""
    n_test: int = 64
    """Pairs of reviews, of other words, that are patched."""
    layers: list[int] = field(default_factory=list)
    """In front of which the stream is patched; empty for all."""
    seed: int = 0
    """Of the reviews, the random direction and the resamples."""
    dtype: str = "float32"
    """Type of weights and activations: float32, float64 or bfloat16."""
    device: str = "auto"
    """Where the model runs; `auto` is CUDA where there is one."""
    progress: bool = True
    """Show how far work is: a bar on a terminal, else a line every 30 s."""

    def __post_init__(self) -> None:
        kinds = ("float32", "float64", "bfloat16")
        refuse(
            misfits(self, "", n_train=MANY, n_test=MANY, seed=SEED, layers=MANY_OR_0)
            or broken(
                (self.n_train > 1, "n_train must be at least 2: one review of each sentiment"),
                (self.dtype in kinds, f"dtype={self.dtype}: one of {', '.join(kinds)}"),
                (self.device in ("auto", "cpu", "cuda"), f"device={self.device}: auto, cpu, cuda"),
            )
        )


def read_sentiment(overrides: Sequence[str]) -> SentimentConfig:
    """The settings among `key=value`, checked.

    Raises:
        ConfigError: an unknown key, a wrong type or a value out of range.
    """
    return read_settings(SentimentConfig, None, overrides)


def find_sentiment(
    model: str | Loaded, config: SentimentConfig | None = None
) -> SentimentDirection:
    """How much of a review's sentiment lies along one direction of a model's residual stream.

    Args:
        model: A name, a folder, a hub id, or a model with its tokenizer.
        config: How much.

    Raises:
        ModelError, DataError: a model that cannot be used, or a tokenizer without the words.
        ConfigError: a layer that the model does not have.
    """
    config = config or SentimentConfig()
    with (
        shown(config.progress) as watch,
        frozen_model(model, config.dtype, config.device, watch) as (name, loaded, tokenizer),
    ):
        ports = Ports(loaded)
        beyond = [layer for layer in config.layers if layer >= ports.graph.n_layers]
        if beyond:
            raise ConfigError(f"layers: no {beyond[0]}; the model has {ports.graph.n_layers}")
        train, test = reviews(tokenizer, config.n_train, config.n_test, config.seed)
        layers = config.layers or None
        progress = watch("directions", "patches")
        return sentiment_direction(name, ports, train, test, layers, config.seed, progress)


def track_sentiment(
    model: str, config: SentimentConfig, folder: Path, say: Print = show
) -> SentimentDirection:
    """`find_sentiment`, left in a folder as `sentiment.json` and `sentiment.md`.

    Raises:
        RunError: the folder cannot be used, or holds something.
        CircuitPruneError: as `find_sentiment`.
    """
    try:
        claim(folder, None)
    except OSError as error:
        raise unusable(folder, error) from None
    found = find_sentiment(model, config)
    with locked(folder):
        claim(folder, None)  # again: it took long
        write_json(folder / "sentiment.json", asdict(found), checked=True)
        write_atomic(folder / "config.yaml", to_yaml(config))
        write_atomic(folder / "sentiment.md", sentiment_page(found))
    say(sentiment_page(found))
    return found

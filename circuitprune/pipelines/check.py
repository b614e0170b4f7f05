"""What becomes of a file of pairs with a model's tokenizer; the model itself is not run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from circuitprune.config import RunConfig, TaskConfig
from circuitprune.data.encoding import Encoder, encode_until
from circuitprune.data.tasks import JsonlTask
from circuitprune.data.tasks.given import ALL_KINDS
from circuitprune.data.tasks.pair import choose_corruption
from circuitprune.errors import ConfigError, DataError
from circuitprune.files.text import counted, line
from circuitprune.models.loading import load_tokenizer
from circuitprune.pipelines.pairs import split_pairs

SIZES = ("n_train", "n_val", "n_test")


@dataclass(frozen=True)
class Checked:
    """The account of a file of pairs."""

    config: RunConfig
    n_pairs: int
    encoder: Encoder
    """Which pairs were kept, and why others were dropped."""
    kept: dict[str, int] | None
    """Pairs of each side; None if they cannot be split as `config.task` says."""
    problem: str
    """Why they cannot be split, if they cannot."""

    def page(self) -> str:
        """The account as text: counts, the first pairs dropped for each reason, the split."""
        task, encoder = self.config.task, self.encoder
        lines = [
            f"pairs     {self.n_pairs:,} in {line(task.path)}, in tokens of "
            f"{line(self.config.model.name)}",
            f"kept      {len(encoder.examples):,}",
        ]
        for reason, number in encoder.dropped.most_common():
            lines += [f"dropped   {number:,}: {reason}", *_indented(encoder.shown[reason])]
        if encoder.left_out:
            lines.append(
                f"left out  {counted(encoder.left_out, 'answer')} of the kept pairs: not one token"
            )
        return "\n".join([*lines, *self._split()])

    def _split(self) -> list[str]:
        task = self.config.task
        asked = " ".join(f"task.{name}={getattr(task, name)}" for name in SIZES)
        if self.kept is None:
            return [f"split     none by {asked}:", *_indented([self.problem])]
        lines = [f"split     {_sides(self.kept)} by {asked}"]
        default = {name.removeprefix("n_"): getattr(TaskConfig(), name) for name in SIZES}
        if sum(self.kept.values()) < sum(default.values()):
            lines.append(f"          without these settings `train` wants {_sides(default)}")
        return lines


def check(config: RunConfig, pairs: JsonlTask, overrides: Sequence[str] = ()) -> Checked:
    """Encode every pair of a file, and split what fits.

    Args:
        config: Names the model, of which the tokenizer alone is loaded, and how to split. Where
            `overrides` do not say how large the sides are, it is half and half.
        pairs: The file.
        overrides: The settings as they were typed.

    Raises:
        ModelError: no such model, or none with a tokenizer.
        ConfigError: a setting that names other pairs.
    """
    others = [item for item in overrides if item.startswith(("task.name=", "task.path="))]
    if others:
        raise ConfigError(f"{others[0]} names other pairs than {pairs.path}; leave it out")
    sized = any(item.startswith(tuple(f"task.{name}=" for name in SIZES)) for item in overrides)
    task = replace(config.task, name="jsonl", path=str(pairs.path))
    if not sized:
        task = replace(task, n_train="auto", n_val=0, n_test="auto")
    config = replace(config, task=task)
    tokenizer, longest = load_tokenizer(config.model.name, config.model.revision)
    kind = choose_corruption(pairs, config.task.corruption)
    chosen = [pair for pair in pairs.all_pairs if kind in (ALL_KINDS, pair.kind)]
    encoder = encode_until(chosen, tokenizer, len(chosen), config.task.bos, longest)
    kept, problem = None, ""
    try:
        kept = split_pairs(config, tokenizer, longest, pairs).report.kept
    except DataError as error:
        problem = str(error).splitlines()[0]
    return Checked(config, len(chosen), encoder, kept, problem)


def _sides(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in sizes.items())


def _indented(texts: Sequence[str]) -> list[str]:
    return [f"    {line}" for text in texts for line in text.splitlines()]

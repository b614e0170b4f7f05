"""Pairs of several tasks side by side: each training step gets a batch of every task."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, IterableDataset

from circuitprune.data.batches import Batch
from circuitprune.data.pairs import SPLITS, Example, PairData


@dataclass(frozen=True)
class _Zipped(IterableDataset[tuple[Batch, ...]]):
    """The steps of several endless loaders."""

    parts: Sequence[PairData]

    def __iter__(self) -> Iterator[tuple[Batch, ...]]:
        return zip(*(part.train_dataloader() for part in self.parts), strict=True)


@dataclass(frozen=True)
class _Listed(Dataset[tuple[int, Batch]]):
    """Batches with the place of the task that each is of."""

    batches: Sequence[tuple[int, Batch]]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, position: int) -> tuple[int, Batch]:
        return self.batches[position]


class TogetherData(LightningDataModule):
    """The pairs of several tasks for Lightning.

    A training batch is a list, one `Batch` of each task; each is drawn as in that task's own run,
    so it depends on seed and step alone. A validation batch is a task's place and a `Batch`.

    Args:
        parts: The pairs of each task.

    `start_step` is as of `PairData`.
    """

    def __init__(self, parts: Sequence[PairData]) -> None:
        super().__init__()
        self.parts = tuple(parts)
        self.start_step = 0

    @property
    def splits(self) -> dict[str, list[Example]]:
        """The examples of each side, task after task."""
        return {side: [one for part in self.parts for one in part.splits[side]] for side in SPLITS}

    def train_dataloader(self) -> DataLoader[tuple[Batch, ...]]:
        """Endless steps `start_step`, `start_step + 1`, ..."""
        for part in self.parts:
            part.start_step = self.start_step
        return DataLoader(_Zipped(self.parts), batch_size=None)

    def val_dataloader(self) -> DataLoader[tuple[int, Batch]] | list[tuple[int, Batch]]:
        """The validation pairs, task after task; `[]` when there are none."""
        listed = [
            (place, one) for place, part in enumerate(self.parts) for one in part.batches("val")
        ]
        return DataLoader(_Listed(listed), batch_size=None) if listed else []

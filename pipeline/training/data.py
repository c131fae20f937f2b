"""Batches of cached tokens, in memory or straight from the stores. Knows no head and no loss.

Shape suffixes: B videos, T steps, N tokens a step, D width.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from pipeline.training.dataset import DataError, Samples
from pipeline.training.table import Table


class ShuffledBatches(Sampler[list[int]]):
    """Batches of an epoch, fixed by seed and epoch alone: a resumed training needs no random state.

    `size` is the batch of all processes together, so their number does not change what a step learns from. The rows
    that do not fill a last batch sit this epoch out.

    Args:
        rows: row numbers to draw from.
        size: rows a batch, over all processes.
        seed: decides the order, with the epoch.
        rank, world: this process, and how many there are.
    """

    def __init__(self, rows: Sequence[int], size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.rows = torch.as_tensor(rows)
        self.size = min(size, len(rows) // world * world)
        if self.size % world or not self.size:
            raise DataError(
                f"a batch of {size} from {len(rows)} samples cannot be shared by {world} devices; "
                "make batch_size in params a multiple of compute.devices times compute.nodes"
            )
        self.seed, self.rank, self.world, self.epoch = seed, rank, world, 0

    def __len__(self) -> int:
        return len(self.rows) // self.size

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed % 2**64, self.epoch]).permutation(len(self.rows))
        for batch in range(len(self)):
            chosen = order[batch * self.size : (batch + 1) * self.size]
            yield self.rows[torch.from_numpy(chosen[self.rank :: self.world])].tolist()


class OrderedBatches(Sampler[list[int]]):
    """Every row exactly once over all processes, never padded; each process has the same number of batches.

    Args:
        rows: row numbers.
        size: the most rows of a batch of one process (two where it is 1 and there are several processes).
        rank, world: this process, and how many there are.
    """

    def __init__(self, rows: Sequence[int], size: int, rank: int = 0, world: int = 1) -> None:
        if len(rows) < world:
            raise DataError(f"{len(rows)} samples cannot be shared by {world} devices; lower compute.devices")
        count = min(-(-len(rows) // (world * size)), len(rows) // world)  # the second: nobody validates an empty batch
        share = np.asarray(rows)[rank::world]
        self.batches = [part.tolist() for part in np.array_split(share, count)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


class FeatureData(LightningDataModule):
    """Training and holdout batches for Lightning.

    Args:
        samples: the joined samples; the evaluated part is never touched here.
        table: (samples, ids, bytes) -> these by row number.
        batch_size: samples a step, over all devices.
        seed: decides the order of batches.
        memory: bytes of features that may be held.
        workers: processes that read what is not held.
    """

    def __init__(
        self,
        samples: Samples,
        table: Callable[[Samples, Sequence[str], float], Table],
        *,
        batch_size: int,
        seed: int,
        memory: float,
        workers: int,
    ) -> None:
        super().__init__()
        self.samples, self.make, self.batch_size, self.seed = samples, table, batch_size, seed
        self.memory, self.workers = memory, workers
        self.table: Table | None = None

    def setup(self, stage: str) -> None:
        """Loads what fits, once a process."""
        if self.table is None:
            ids = self.samples.parts["train"] + self.samples.parts["holdout"]
            self.table = self.make(self.samples, ids, self.memory)

    def train_dataloader(self) -> DataLoader:
        """Shuffled batches of the training part."""
        rows = range(len(self.samples.parts["train"]))
        batches = ShuffledBatches(rows, self.batch_size, self.seed, *self._place)
        if self.trainer:
            # Lightning tells the sampler its epoch only after the workers of a resumed training began to read.
            batches.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)
        return self._loader(batches)

    def val_dataloader(self) -> DataLoader:
        """The holdout, each sample once."""
        start, stop = len(self.samples.parts["train"]), len(self.table)
        return self._loader(OrderedBatches(range(start, stop), self.batch_size, *self._place))

    def _loader(self, batches: Sampler[list[int]]) -> DataLoader:
        return self.table.loader(batches, self.workers, pin=torch.cuda.is_available())

    @property
    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

"""Which rows a batch has, of one process or of several. Knows no row and no trainer."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

from pipeline.training.dataset import DataError


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

"""What all tables of features share: how batches are drawn from one, and how many wait at once. Knows no sample."""

from typing import NamedTuple

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.memory import BATCHES_AHEAD, SHARED_MEMORY, megabytes, shared_memory_left
from pipeline.training.dataset import DataError

Batch = dict[str, Tensor]


class Readers(NamedTuple):
    """Processes that read batches, and the bytes of them that may be under way at once.

    Attributes:
        workers: the most processes.
        bytes_ahead: read and not yet taken, over all of them.
        sharing: how many trainings of this node share its memory: a training of several devices has a process each.
    """

    workers: int
    bytes_ahead: float
    sharing: int = 1


class Table(Dataset):
    """Rows of a feature, a batch by a list of row numbers.

    Attributes:
        in_memory: whether every row is held, so that nothing is read from disk any more.
        longest: the row of the most bytes.
    """

    in_memory: bool
    longest: int = 0

    def loader(self, batches: Sampler[list[int]], size: int, readers: Readers, pin: bool = False) -> DataLoader:
        """A loader of whole batches; worker processes only where something is read from disk, and no more of them, each
        with no more batches ahead, than the bytes allow. A batch is the same whoever reads it.

        Args:
            batches: row numbers.
            size: the most rows of a batch.
            readers: the processes, and their bytes.
            pin: whether batches are copied to pinned memory.

        Raises:
            DataError: not one batch fits into what may be ahead, or into half of the shared memory that is left.
        """
        if self.in_memory or not readers.workers:
            return DataLoader(self, batch_size=None, sampler=batches, pin_memory=pin)
        workers, ahead = share_out(size, size * self.bytes_of_longest, readers)
        return DataLoader(
            self,
            batch_size=None,
            sampler=batches,
            num_workers=workers,
            prefetch_factor=ahead,
            persistent_workers=True,
            pin_memory=pin,
        )

    @property
    def bytes_of_longest(self) -> int:
        """The most bytes that a sample has in a batch."""
        return sum(of.nbytes for of in self[[self.longest]].values())


def share_out(rows: int, size: int, readers: Readers) -> tuple[int, int]:
    """How many processes read, and how many batches each may have ahead.

    Args:
        rows: of a batch, for messages.
        size: bytes of a batch.
        readers: what is wanted.

    Raises:
        DataError: as of `Table.loader`.

    >>> share_out(8, 100, Readers(4, 1000))
    (4, 2)
    >>> share_out(8, 100, Readers(12, 500))
    (5, 1)
    """
    left = shared_memory_left()
    room = float("inf") if left is None else left / 2 / readers.sharing
    need = f"a batch of {rows} samples has {megabytes(size)}"
    no_readers = "set compute.decode_workers: 0, which needs none"
    if size > room:
        wanted = -(-4 * size * readers.sharing // 10**9)
        raise DataError(
            f"{SHARED_MEMORY} has {megabytes(left)} left, of which half may be taken, and {need}; give the "
            f"container more (--shm-size={wanted}g), or {no_readers}"
        )
    if size > readers.bytes_ahead:
        raise DataError(
            f"compute.readahead_gb is {readers.bytes_ahead / 1e9:g}, and {need}; raise it to {size / 1e9:.2g} or more, "
            f"or {no_readers}"
        )
    most = int(min(room, readers.bytes_ahead) // max(size, 1))
    workers = min(readers.workers, most)
    return workers, min(BATCHES_AHEAD, most // workers)

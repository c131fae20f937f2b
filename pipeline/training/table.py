"""What both tables of features share: how batches are drawn from one. Knows no sample."""

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

Batch = dict[str, Tensor]


class Table(Dataset):
    """Rows of a feature, a batch by a list of row numbers.

    Attributes:
        in_memory: whether every row is held, so that nothing is read from disk any more.
    """

    in_memory: bool

    def loader(self, batches: Sampler[list[int]], workers: int, pin: bool = False) -> DataLoader:
        """A loader of whole batches; worker processes only where something is read from disk."""
        workers = 0 if self.in_memory else workers
        return DataLoader(
            self, batch_size=None, sampler=batches, num_workers=workers, persistent_workers=workers > 0, pin_memory=pin
        )

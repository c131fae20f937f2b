"""Batches of cached tokens, in memory or straight from the stores. Knows no head and no loss.

Shape suffixes: B videos, T steps, N tokens a step, D width.
"""

from collections.abc import Callable, Sequence

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from pipeline.training.batches import OrderedBatches, ShuffledBatches
from pipeline.training.dataset import Samples
from pipeline.training.table import Batch, Readers, Table


class FeatureData(LightningDataModule):
    """Training and holdout batches for Lightning.

    Args:
        samples: the joined samples; the evaluated part is never touched here.
        table: (samples, ids, bytes) -> these by row number.
        batch_size: samples a step, over all devices.
        part: the most samples that a step computes at once; a batch of the holdout has so many. By default the batch.
        seed: decides the order of batches.
        memory: bytes of features that may be held.
        readers: processes that read what is not held.
    """

    def __init__(
        self,
        samples: Samples,
        table: Callable[[Samples, Sequence[str], float], Table],
        *,
        batch_size: int,
        part: int | None = None,
        seed: int,
        memory: float,
        readers: Readers,
    ) -> None:
        super().__init__()
        self.samples, self.make, self.batch_size, self.seed = samples, table, batch_size, seed
        self.memory, self.readers, self.part = memory, readers, part or batch_size
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
        return self._loader(batches, batches.size // self._place[1])

    def val_dataloader(self) -> DataLoader:
        """The holdout, each sample once; where nothing could be held out, what is learned from."""
        learned = len(self.samples.parts["train"])
        rows = range(learned, len(self.table)) or range(learned)
        return self._loader(OrderedBatches(rows, self.part, *self._place), self.part)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """To the device, but for a batch that is learned from in parts, each of which the step takes there itself."""
        if self.part < self.batch_size and self.trainer.training:
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def _loader(self, batches: Sampler[list[int]], size: int) -> DataLoader:
        return self.table.loader(batches, size, self.readers, pin=torch.cuda.is_available())

    @property
    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

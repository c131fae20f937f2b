"""Batches of cached tokens and vectors, in memory or straight from the stores. Knows no head, no loss and no order.

Shape suffixes: B videos, T steps, N tokens a step, D width.
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.training.dataset import Samples, Stream
from pipeline.training.table import Batch, Table

UNTIMED = [0.0]  # of what was computed elsewhere, from nobody knows which moment


class Tokens(Table):
    """Samples by lists of rows, a whole batch at a time.

    The streams that fit into the memory allowed are loaded at once, smallest first; the others are read when asked for.

    Args:
        samples: the joined samples.
        ids: the samples that rows count, in order.
        memory: bytes that may be held.
        roles: of the streams; all by default.
    """

    def __init__(
        self, samples: Samples, ids: Sequence[str], memory: float, roles: Collection[str] | None = None
    ) -> None:
        self.ids = list(ids)
        self.streams = {role: samples.streams[role] for role in (samples.streams if roles is None else roles)}
        self.labels = torch.tensor([samples.labels[sample] for sample in ids])
        first = next(iter(self.streams.values())).store
        self.times = torch.tensor([first.meta(sample).get("times", UNTIMED) for sample in ids], dtype=torch.float32)
        self.held: dict[str, Tensor] = {}
        sizes = {role: len(self.ids) * _sample_bytes(stream) for role, stream in self.streams.items()}
        for role in sorted(sizes, key=lambda role: sizes[role]):
            if sizes[role] <= memory:
                memory -= sizes[role]
                stream = self.streams[role]
                self.held[role] = torch.from_numpy(stream.store.load(stream.name, self.ids))
        self.in_memory = len(self.held) == len(self.streams)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        """A batch: role -> (B, T, N, D), (B, T, D) or (B, D) as stored; times (B, T) float32 in seconds; label and row
        (B,) int64."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        batch = {"times": self.times[index], "label": self.labels[index], "row": index}
        for role, stream in self.streams.items():
            if role in self.held:
                batch[role] = self.held[role].index_select(0, index)
            else:
                batch[role] = torch.from_numpy(
                    stream.store.read([self.ids[row] for row in index.tolist()], stream.name)
                )
        return batch


def _sample_bytes(stream: Stream) -> int:
    return int(np.prod(stream.sample_shape)) * np.dtype(stream.store.fields[stream.name][1]).itemsize

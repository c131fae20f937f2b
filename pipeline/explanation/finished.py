"""A finished run with all that explaining it needs: its samples, its weights, its predictions. Opens no video."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.accelerator import accelerator
from pipeline.config import Params
from pipeline.evaluation.provenance import finished, inference, opened, trained
from pipeline.tasks import TASKS
from pipeline.training.batches import OrderedBatches
from pipeline.training.registry import predict
from pipeline.training.table import Batch


class ExplanationError(ValueError):
    """A run that cannot be explained as asked; the message gives the remedy."""


class NotOffered(ExplanationError):
    """What a head has not, so that a part of its explanation is left out."""


class Finished:
    """An evaluated run, opened.

    Attributes:
        config: the head's sub-tree of params.
        root: the features' folder, where the manifests lie.
        result: what its evaluation found.
        predictions: a row an evaluated sample.
        samples: the joined samples; of ood, `Pictures`.
    """

    def __init__(self, params: Params, head: str, manifest: Path, features: Mapping[str, Path], run: Path) -> None:
        """Raises RunError where the run is not finished; that and DataError as `evaluation.evaluate`."""
        self.params, self.head, self.features, self.run = params, head, features, run
        self.config, self.manifest, self.root = params.head(head), manifest, manifest.parents[1]
        self.result, self.predictions = finished(params, head, run)
        self.samples, _ = opened(params, head, manifest, features, run)
        self.task = TASKS[self.config.task]
        self.device = torch.device(accelerator(params.compute))

    @cached_property
    def model(self) -> nn.Module:
        """The head with its weights, ready to predict."""
        return trained(self.params, self.head, self.samples, self.run, self.device)

    @property
    def seen_by(self) -> str:
        """The feature whose crop pictures are shown in: what its first role reads."""
        return next(iter(self.config.inputs.values())).feature

    def table(self, ids: Sequence[str]) -> Any:
        """The samples by row number, as training and evaluation read them."""
        return self.task.code("table")(self.samples, ids, self.params.compute.cache_memory_gb * 1e9)

    def batches(self, rows: Any) -> Iterator[Batch]:
        """All of a table in order, on the head's device."""
        batches = OrderedBatches(range(len(rows)), self.config.batch_size)
        for batch in rows.loader(batches, self.params.compute.decode_workers):
            yield {key: tensor.to(self.device) for key, tensor in batch.items()}

    def inference(self) -> AbstractContextManager[None]:
        """No gradients, and the precision that the head was trained in."""
        return inference(self.config.precision, self.device)

    def logits(self, batch: Batch) -> Tensor:
        """(B, C) of a batch, of a classifier or of clip_align under the videos' own maps."""
        return predict(self.model, batch, self.samples.streams)

"""What happens around the steps: averaged weights, the journal of epochs, the best ones kept. Knows no store.

Everything a resumed training needs is plain numbers in the callbacks' states: checkpoints load with weights_only.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from dvclive import Live
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.plugins.io import TorchCheckpointIO
from safetensors.torch import save
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pipeline.files import whole, write_bytes, write_text
from pipeline.training.run_folder import HISTORY, WEIGHTS

COLUMNS = ("epoch", "train_loss", "holdout_loss", "holdout_accuracy", "lr")


class Logs(Live):
    """DVCLive's files alone. With its repository it would run `dvc init` and stage files in any git checkout around."""

    def _init_dvc(self) -> None:
        self._save_dvc_exp = False


class TrainingDiverged(RuntimeError):
    """The loss is no number any more."""


class CheckpointByRename(TorchCheckpointIO):
    """Writes beside the checkpoint and renames. Lightning's own copies from another folder, and a copy can tear."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """The old checkpoint stays whole until the new one is on the disk."""
        with whole(Path(path), durable=True) as scratch, scratch.open("wb") as stream:
            torch.save(checkpoint, stream)


class MovingAverage(WeightAveraging):
    """Exponential moving average of the parameters, after every step, all tensors at once; validation uses it."""

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(decay))

    def weights(self) -> dict[str, Tensor]:
        """The head's averaged state, on the CPU."""
        state = self._average_model.module.model.state_dict()
        return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


class Journal(Callback):
    """A line and a row of history an epoch; keeps the best epoch's averaged weights; ends what gains no more.

    Args:
        run: the run's folder.
        average: whose weights are kept.
        patience: epochs without a better holdout accuracy before the end.
        threads: of every process; multi-process strategies would set their own.
        progress: called with one line an epoch.
    """

    def __init__(
        self, run: Path, average: MovingAverage, patience: int, threads: int, progress: Callable[[str], None]
    ) -> None:
        self.run, self.average, self.patience, self.threads, self.progress = run, average, patience, threads, progress
        self.rows: list[list[float]] = []
        self.seconds: list[float] = []
        self.best_epoch = 0  # counted from 1
        self.best_accuracy = -1.0
        self.start = 0.0
        self.repeated = False

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        names = ("rows", "seconds", "best_epoch", "best_accuracy")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for name, value in state.items():
            setattr(self, name, value)

    @property
    def has_stalled(self) -> bool:
        """Whether patience has run out."""
        return len(self.rows) - self.best_epoch >= self.patience

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Repeats the rows of a resumed training to the logger, and notices if nothing was left to do."""
        torch.set_num_threads(self.threads)
        self.start = time.monotonic()
        trainer.should_stop = self.has_stalled
        if self.rows:
            self.progress(f"resumed after epoch {len(self.rows)} of {trainer.max_epochs}")
        self.repeat(trainer)

    def repeat(self, trainer: Trainer) -> None:
        """Repeats the rows of a resumed training to the logger, once."""
        if not self.repeated:
            self.repeated = True
            for row in self.rows:
                _log(trainer, row)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Runs after the validation, before the checkpoint."""
        measured = {name: float(trainer.callback_metrics[name]) for name in COLUMNS[1:4]}
        epoch = trainer.current_epoch + 1
        if not torch.isfinite(torch.tensor(measured["train_loss"])):
            raise TrainingDiverged(
                f"{self.run}: the loss of epoch {epoch} is not finite; lower lr or clip_norm in params"
            )
        row = [epoch, *measured.values(), trainer.optimizers[0].param_groups[0]["lr"]]
        self.rows.append(row)
        self.seconds.append(time.monotonic() - self.start)
        self.start += self.seconds[-1]
        if measured["holdout_accuracy"] > self.best_accuracy:
            self.best_epoch, self.best_accuracy = epoch, measured["holdout_accuracy"]
            if trainer.is_global_zero:
                write_bytes(self.run / WEIGHTS, save(self.average.weights()), durable=True)
        trainer.should_stop = trainer.should_stop or self.has_stalled
        if trainer.is_global_zero:
            write_text(self.run / HISTORY, self.history().to_csv(index=False))
            _log(trainer, row)
            self.progress(self._line(trainer.max_epochs))

    def history(self) -> pd.DataFrame:
        """A row an epoch."""
        return pd.DataFrame(self.rows, columns=list(COLUMNS)).astype({"epoch": int})

    def _line(self, epochs: int) -> str:
        epoch, train_loss, holdout_loss, accuracy, lr = self.rows[-1]
        left = (epochs - epoch) * sum(self.seconds) / len(self.seconds)
        star = "*" if epoch == self.best_epoch else " "
        return (
            f"epoch {epoch:3d}/{epochs}  loss {train_loss:.4f}  holdout {holdout_loss:.4f}, top-1 {accuracy:.3f}{star} "
            f"lr {lr:.2e}  {self.seconds[-1]:.1f} s, at most {left:.0f} s left"
        )


def _log(trainer: Trainer, row: list[float]) -> None:
    if trainer.is_global_zero and trainer.logger is not None:
        trainer.logger.log_metrics(dict(zip(COLUMNS[1:], row[1:], strict=True)), step=int(row[0]), sync=True)

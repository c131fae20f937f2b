"""What happens around the steps: averaged weights, the journal of epochs, the best ones kept. Knows no store.

Everything a resumed training needs is plain numbers and tensors in the callbacks' states: checkpoints load with
weights_only.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from safetensors.torch import save
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pipeline.digests import sha256
from pipeline.files import write_bytes, write_text
from pipeline.runs import HISTORY, WEIGHTS

COLUMNS = ("epoch", "train_loss", "holdout_loss", "holdout_accuracy", "lr")


class TrainingDiverged(RuntimeError):
    """The loss is no number any more."""


class MovingAverage(WeightAveraging):
    """Exponential moving average of the parameters, after every step, all tensors at once; validation uses it."""

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(decay))

    def weights(self) -> dict[str, Tensor]:
        """A copy of the head's averaged state, on the CPU."""
        state = self._average_model.module.model.state_dict()
        return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}


class Journal(Callback):
    """A line and a row of history an epoch; keeps the best epoch's averaged weights; ends what gains no more.

    The best epoch has the highest holdout accuracy; of equal ones, the lowest holdout loss; of equal ones, it is first.

    Args:
        run: the run's folder.
        identity: digest of all that decides the weights, in every checkpoint.
        average: whose weights are kept.
        patience: epochs without a better one before the end.
        threads: of every process; multi-process strategies would set their own.
        progress: called with one line an epoch.
        judged: what that calls the column `holdout_accuracy`.
        accumulate: parts that a batch is computed in.
    """

    def __init__(
        self,
        run: Path,
        identity: str,
        average: MovingAverage,
        patience: int,
        threads: int,
        progress: Callable[[str], None],
        judged: str = "accuracy",
        accumulate: int = 1,
    ) -> None:
        self.judged, self.accumulate = judged, accumulate
        self.parts: list[int] = []
        self.run, self.identity, self.average, self.patience = run, identity, average, patience
        self.threads, self.progress = threads, progress
        self.rows: list[list[float]] = []
        self.seconds: list[float] = []
        self.best: dict[str, Tensor] = {}
        self.start = 0.0
        self.repeated = False

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, and the weights that would be the result if nothing better came."""
        return {name: getattr(self, name) for name in ("identity", "rows", "seconds", "best", "parts")}

    @property
    def computed(self) -> dict[str, Any]:
        """How batches were computed, where that may have changed rounding: in how many parts; of each epoch, where it
        was not the same in all."""
        if not any(parts > 1 for parts in self.parts):
            return {}
        return {"accumulate": self.parts[0] if len(set(self.parts)) == 1 else self.parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for name, value in state.items():
            setattr(self, name, value)

    @property
    def best_epoch(self) -> int:
        """Counted from 1; 0 before there is one. An epoch without a finite loss is the worst of its accuracy."""
        by_worth = [(row[3], -row[2] if math.isfinite(row[2]) else -math.inf) for row in self.rows]
        return by_worth.index(max(by_worth)) + 1 if by_worth else 0

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
        # One process's numbers for all: which epoch is best, and when to end, must be one decision.
        measured = trainer.strategy.broadcast({name: float(trainer.callback_metrics[name]) for name in COLUMNS[1:4]})
        epoch = trainer.current_epoch + 1
        if not torch.isfinite(torch.tensor(measured["train_loss"])):
            raise TrainingDiverged(
                f"{self.run}: the loss of epoch {epoch} is not finite; lower lr or clip_norm in params"
            )
        row = [epoch, *measured.values(), trainer.optimizers[0].param_groups[0]["lr"]]
        self.rows.append(row)
        self.parts.append(self.accumulate)
        self.seconds.append(time.monotonic() - self.start)
        self.start += self.seconds[-1]
        if self.best_epoch == epoch:
            self.best = self.average.weights()
        trainer.should_stop = trainer.should_stop or self.has_stalled
        if trainer.is_global_zero:
            write_text(self.run / HISTORY, self.history())
            _log(trainer, row)
            self.progress(self._line(trainer.max_epochs))

    def history(self) -> str:
        """CSV, a row an epoch."""
        return pd.DataFrame(self.rows, columns=list(COLUMNS)).astype({"epoch": int}).to_csv(index=False)

    def keep(self) -> dict[str, str]:
        """Writes the best epoch's weights and the history, whatever a resumed training found there.

        Returns:
            The sha256 of each, by its name in the run's record.
        """
        weights, history = save(self.best), self.history()
        write_bytes(self.run / WEIGHTS, weights, durable=True)
        write_text(self.run / HISTORY, history)
        return {"weights": sha256(weights), HISTORY: sha256(history.encode())}

    def _line(self, epochs: int) -> str:
        epoch, train_loss, holdout_loss, accuracy, lr = self.rows[-1]
        left = (epochs - epoch) * sum(self.seconds) / len(self.seconds)
        star = "*" if epoch == self.best_epoch else " "
        return (
            f"epoch {epoch:3d}/{epochs}  loss {train_loss:.4f}  holdout {holdout_loss:.4f}, "
            f"{self.judged} {accuracy:.3f}{star} lr {lr:.2e}  {self.seconds[-1]:.1f} s, at most {left:.0f} s left"
        )


def _log(trainer: Trainer, row: list[float]) -> None:
    if trainer.is_global_zero and trainer.logger is not None:
        trainer.logger.log_metrics(dict(zip(COLUMNS[1:], row[1:], strict=True)), step=int(row[0]), sync=True)

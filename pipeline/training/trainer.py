"""Trains one head from its caches: resumable, repeatable, on one device or several. Knows no video and no backbone."""

import contextlib
import gc
import hashlib
import logging
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy

from pipeline.accelerator import accelerator, arithmetic, deterministic, device, made_by
from pipeline.compiling import compiled
from pipeline.config import canonical_json
from pipeline.memory import first_line, is_out_of_memory
from pipeline.runs import CHECKPOINT, LOGS, Run, RunError, clear, complete, only_writer, say, standing
from pipeline.training.accumulation import checkpointed, parts
from pipeline.training.callbacks import Journal, MovingAverage
from pipeline.training.checkpoints import CheckpointByRename, resumable
from pipeline.training.data import FeatureData
from pipeline.training.dataset import SHOWN
from pipeline.training.processes import agreed, environment, is_first, meet
from pipeline.training.registry import HeadError, build, count
from pipeline.training.step import Step
from pipeline.training.table import Readers

HOPELESS = 10  # times the loss of chance, at which a training has learned nothing


class OutOfMemory(RunError):
    """A training that does not fit the memory; the message names the settings that can be lowered."""


def train(run: Run, progress: Callable[[str], None] = say) -> dict[str, Any]:
    """Brings a run to its end: from scratch, from the last epoch of a killed training, or not at all if it is complete.

    A head with stand-ins is trained twice: first, in the folder `stand_ins`, without some of its seen classes too.

    Writes a checkpoint an epoch, of which the last two are kept, history.csv and DVCLive's logs; at the end
    weights.safetensors (averaged weights of the best epoch: see `Journal`); and last, by rename, run.json.

    A step that does not fit the memory is computed in parts, twice as many each time, from the last epoch on. How many
    there were is said in a line, and in the record.

    A damaged checkpoint, and what is damaged of a complete run, is said in a line and made again to the same bytes:
    from the checkpoint before it where that is whole, else from the start.

    Args:
        run: of a head that has weights to learn.
        progress: called with one line an epoch.

    Returns:
        What run.json holds; {} in the further processes of a multi-device training.

    Raises:
        DataError, HeadError, OutOfMemory, RunBusy, RunError, TrainingDiverged: with the remedy.
    """
    if not run.config.trains:
        raise HeadError(
            f"{run.head} trains nothing; `python -m pipeline evaluate {run.head}` scores it from the caches"
        )
    torch.set_num_threads(run.params.compute.threads)
    meet(run.params.compute)
    with deterministic():
        if getattr(run.config, "stand_ins", 0):
            _train(run.stand_ins, progress)
        return _train(run, progress)


def _train(run: Run, progress: Callable[[str], None]) -> dict[str, Any]:
    config, samples, folder, first = run.config, run.samples, run.folder, is_first()
    began = time.monotonic()
    identity = hashlib.sha256(canonical_json([samples.digest, config.learned]).encode()).hexdigest()
    say_first = progress if first else lambda line: None
    with only_writer(folder) if first else contextlib.nullcontext():
        record = agreed(standing(folder, identity, progress) if first else {})
        if first and not record and not resumable(folder, identity, progress):
            clear(folder)
        if record:
            if first:
                complete(folder, identity, record)
                told = "complete already, trained 0 epochs; its name says its content: to train again, delete it"
                progress(f"{folder}: {told}")
            return record if first else {}
        counts = ", ".join(f"{number} {name}" for name, number in samples.counts.items())
        say_first(f"{folder}: {run.head} on {len(samples.classes)} classes; samples: {counts}")
        precision = arithmetic(config.precision, accelerator(run.params.compute))
        if precision != config.precision:
            say_first(f"  precision {config.precision} runs as {precision} on the CPU")
        if config.batch_size > (there := len(samples.parts["train"])):
            say_first(f"  batch_size is {config.batch_size}, and train has {there} samples: a step takes them all")
        if not samples.parts["holdout"]:
            say_first("  nothing can be held out: epochs are judged by the samples that are learned from")
        for sample, reason in list(samples.failed.items())[:SHOWN]:
            say_first(f"  failed {sample}: {reason}")
        module, journal = _fitted(run, identity, say_first)
        if len(journal.rows) < config.epochs and not journal.has_stalled:
            epochs = len(journal.rows)
            raise RunError(f"{folder}: interrupted after epoch {epochs}; the same command goes on from there")
        if not first:
            return {}
        accuracy = journal.rows[journal.best_epoch - 1][3]
        record = {
            "head": run.head,
            "classes": samples.classes,
            "best_epoch": journal.best_epoch,
            "holdout_accuracy": accuracy,
            "parameters": count(module.model),
            "trainable": count(module.model, trainable=True),
            "samples": samples.learned_from,
            "data_digest": samples.digest,
            **journal.keep(),
            "precision": precision,
            **journal.computed,
            "config": config.learned,
            "features": {
                role: {"key": stream.store.key, "provenance": stream.store.provenance}
                for role, stream in samples.streams.items()
            },
            **made_by(run.params.compute),
            "timings": {
                "epochs": len(journal.rows),
                "fit_s": sum(journal.seconds),
                "this_process_s": time.monotonic() - began,
            },
        }
        complete(folder, identity, record)
        if (loss := journal.rows[-1][1]) > (bound := HOPELESS * max(math.log(len(samples.classes)), 1.0)):
            progress(f"  warning: the loss ends at {loss:,.0f}, and {bound:.0f} is {HOPELESS} times chance; lower lr")
        progress(
            f"{folder}: best epoch {journal.best_epoch} of {len(journal.rows)}, "
            f"holdout {run.task.judged} {accuracy:.3f}, "
            f"{record['trainable']:,} trainable parameters, {time.monotonic() - began:.0f} s"
        )
        return record


def _fitted(run: Run, identity: str, progress: Callable[[str], None]) -> tuple[Step, Journal]:
    """Trains; where the memory does not suffice, goes on from the last epoch with twice as many parts of a batch."""
    config, accumulate = run.config, run.config.accumulate
    while True:
        try:
            return _fit(run, config.model_copy(update={"accumulate": accumulate}), identity, progress)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            said = first_line(error)
        # Outside of the handler: while it runs, the error's frames hold the tensors that did not fit.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        compute = run.params.compute
        most = max(1, min(config.batch_size, len(run.samples.parts["train"])) // (compute.devices * compute.nodes))
        if config.undivided or accumulate >= most or compute.devices * compute.nodes > 1:
            raise OutOfMemory(_remedy(run, accumulate, most, said))
        accumulate = min(2 * accumulate, most)
        rows = parts(most, accumulate)[0].rows
        progress(f"  out of memory ({said}); goes on with accumulate: {accumulate}, {rows} samples a part")


def _remedy(run: Run, accumulate: int, most: int, said: str) -> str:
    """The message for a training that does not fit the memory: the settings that can be lowered, the mildest first."""
    config = run.config
    remedies = []
    if not config.undivided and accumulate < most:
        remedies.append(f"accumulate: {min(2 * accumulate, most)}")
    if config.blocks_in and not config.gradient_checkpointing:
        remedies.append("gradient_checkpointing: true")
    if config.precision == "32-true":
        remedies.append("precision: bf16-mixed")
    if config.undivided and config.batch_size > 1:
        remedies.append("a lower batch_size")
    if (most_gb := run.params.compute.max_memory_gb) is not None:
        remedies.append(f"compute.max_memory_gb above {most_gb:g}")
    remedies.append("a smaller model")
    divided = accumulate > 1 or most == 1
    part = f"a part of {parts(most, accumulate)[0].rows} samples" if divided else f"a batch of {most}"
    return f"heads.{run.head}: {part} does not fit the memory ({said}); set {' or '.join(remedies)}, and run again"


def _fit(run: Run, config: Any, identity: str, progress: Callable[[str], None]) -> tuple[Step, Journal]:
    """Trains with the head's params, of which `accumulate` may be higher than the run's."""
    from pipeline.training.logs import logger

    compute, samples, folder, first = run.params.compute, run.samples, run.folder, is_first()
    device(compute)  # no more memory than params allow
    _hush()
    data = FeatureData(
        samples,
        run.task.code("table"),
        batch_size=config.batch_size,
        part=config.part,
        seed=config.seed,
        memory=compute.cache_memory_gb * 1e9,
        readers=Readers(compute.decode_workers, compute.readahead_gb * 1e9, compute.devices),
    )
    torch.manual_seed(config.seed)
    model = build(run.head, config, samples)
    steps = max(len(samples.parts["train"]) // config.batch_size, 1)
    if config.gradient_checkpointing and not checkpointed(model, config.blocks_in):
        raise HeadError(
            f"heads.{run.head}.gradient_checkpointing is true, but its model has no list of blocks called "
            f"{' or '.join(config.blocks_in)}; leave it false"
        )
    if config.compile:
        compiled(model, torch.device(accelerator(compute)))
    module = run.task.code("step")(run.head, model, config, samples, steps)
    module.divide(config.accumulate)
    average = MovingAverage(config.ema_decay)
    journal = Journal(
        folder, identity, average, config.patience, compute.threads, progress, run.task.judged, config.accumulate
    )
    checkpoint = ModelCheckpoint(
        folder, filename=Path(CHECKPOINT).stem, save_on_train_epoch_end=True, enable_version_counter=False
    )
    distributed = compute.devices * compute.nodes > 1 or compute.strategy == "ddp"
    trainer = Trainer(
        accelerator=accelerator(compute),
        devices=compute.devices,
        num_nodes=compute.nodes,
        # Heads have no running statistics to broadcast.
        strategy=DDPStrategy(broadcast_buffers=False) if distributed else "auto",
        plugins=[CheckpointByRename(), *([environment(compute)] if distributed else [])],
        precision=arithmetic(config.precision, accelerator(compute)),
        max_epochs=config.epochs,
        gradient_clip_val=config.clip_norm,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        callbacks=[average, journal, checkpoint],
        logger=logger(folder / LOGS if first else None),
        log_every_n_steps=steps,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    resumes = agreed((folder / CHECKPOINT).exists())
    trainer.fit(module, data, ckpt_path=folder / CHECKPOINT if resumes else None, weights_only=True)
    journal.repeat(trainer)  # where no epoch was left, Lightning starts no training
    return module, journal


def _hush() -> None:
    """Our own line an epoch is the progress; advice meant for interactive use is not shown."""
    for name in ("lightning.pytorch", "lightning.fabric", "dvclive"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for advice in (
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists.*",
        ".*is smaller than the logging.*",
        ".*The `srun` command is available.*",
    ):
        warnings.filterwarnings("ignore", advice)

"""The last two checkpoints of a training: written by rename, read against their own checksums. Knows no step.

A checkpoint is all that its training needs to go on: the journal, the best weights so far, and whose it is.
"""

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from pipeline.files import whole
from pipeline.runs import CHECKPOINT, PREVIOUS


class CheckpointByRename(TorchCheckpointIO):
    """Writes beside the checkpoint and renames. Lightning's own copies from another folder, and a copy can tear."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """The old checkpoint stays whole until the new one is on the disk, and is then the one before it."""
        content = io.BytesIO()  # torch tells nobody why a file could not be written, as of a full disk
        torch.save(checkpoint, content)
        path = Path(path)
        with whole(path, durable=True) as scratch:
            scratch.write_bytes(content.getbuffer())
            if path.exists():
                os.replace(path, path.with_name(PREVIOUS))


def resumable(run: Path, identity: str, progress: Callable[[str], None]) -> bool:
    """Whether a training can go on: its newest whole checkpoint has the name of the last one then, others are removed.

    Args:
        run: the run's folder.
        identity: digest of all that decides the weights.
        progress: called with one line if a checkpoint is of no use.
    """
    faults = []
    for path in (run / CHECKPOINT, run / PREVIOUS):
        if not path.exists():
            continue
        if not (fault := _fault(path, identity)):
            os.replace(path, run / CHECKPOINT)
            break
        faults.append(f"{path} {fault}")
        path.unlink()
    there = (run / CHECKPOINT).exists()
    if faults:
        goes_on = "goes on from the checkpoint before it" if there else "starts again"
        progress(f"{', '.join(faults)}: removed, and the training {goes_on}")
    return there


def _fault(path: Path, identity: str) -> str:
    """Why a checkpoint is of no use, or nothing. Torch writes the CRC of every record and checks none."""
    content = io.BytesIO(path.read_bytes())
    try:
        with zipfile.ZipFile(content) as records:
            if records.testzip() is not None:
                return "is damaged"
        content.seek(0)
        found = torch.load(content, map_location="cpu", weights_only=True)["callbacks"]["Journal"]["identity"]
    except MemoryError:  # says nothing of the file
        raise
    except Exception:  # a file may be damaged in any way, and each has its own error
        return "is damaged"
    return "" if found == identity else "is of other samples or params"

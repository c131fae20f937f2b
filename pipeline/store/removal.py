"""Takes whole stores away. Knows no params: what is of no more use is the caller's to say."""

import shutil
from contextlib import ExitStack
from pathlib import Path

from .durable import Lock, sync_directory

GOING = ".pruned-"


def remove(directory: Path) -> None:
    """Removes a store or any other folder with all that it holds.

    It is renamed first, so that nobody ever sees half of it; what a kill leaves over is found by `leftovers`.

    Args:
        directory: features/<dataset>/<feature>-<key>, runs/<head>/<key>, or a folder without locks.

    Raises:
        StoreBusy: one of its shards is being written, or the run is being trained; nothing is removed.
    """
    with ExitStack() as stack:
        for lock in sorted((*directory.glob("shard-*.lock"), *directory.glob("**/lock"))):
            stack.callback(Lock(lock).release)
        going = directory if directory.name.startswith(GOING) else directory.with_name(GOING + directory.name)
        directory.rename(going)
        sync_directory(going.parent)
        shutil.rmtree(going)


def leftovers(parent: Path) -> list[Path]:
    """What removals that were killed have left below a folder."""
    return sorted(parent.glob(f"{GOING}*"))

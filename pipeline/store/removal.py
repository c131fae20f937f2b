"""Takes whole stores away. Knows no params: what is of no more use is the caller's to say."""

import shutil
from contextlib import ExitStack
from pathlib import Path

from .durable import Lock, sync_directory
from .errors import StoreBusy

GOING = ".pruned-"


def remove(directory: Path) -> None:
    """Removes a store or any other folder with all that it holds.

    It is renamed first, so that nobody ever sees half of it; what a kill leaves over is found by `leftovers`.

    Args:
        directory: features/<dataset>/<feature>-<key>, runs/<head>/<key>, or a folder without locks.

    Raises:
        StoreBusy: one of its shards is being written, or the run is being trained; nothing is removed.
    """
    going = directory if directory.name.startswith(GOING) else directory.with_name(GOING + directory.name)
    with ExitStack() as stack:
        held = _locks(directory)
        for lock in held:
            stack.callback(Lock(directory / lock).release)
        directory.rename(going)
        sync_directory(going.parent)
        try:
            # Who took a lock of its own before the new name writes here; who does so after it starts a new folder.
            for lock in _locks(going) - held:
                stack.callback(Lock(going / lock).release)
        except StoreBusy as error:
            going.rename(directory)
            raise StoreBusy(f"{directory}: another process has begun to write in it; end it, or wait") from error
        shutil.rmtree(going)


def _locks(directory: Path) -> set[Path]:
    return {path.relative_to(directory) for name in ("shard-*.lock", "**/lock") for path in directory.glob(name)}


def leftovers(parent: Path) -> list[Path]:
    """What removals that were killed have left below a folder."""
    return sorted(parent.glob(f"{GOING}*"))

"""What can go wrong with a store, by name. Knows nothing else."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class StoreError(ValueError):
    """A store that cannot be used as asked; the message names shard, sample and remedy."""


class StoreBusy(StoreError):
    """Another process is writing this shard."""


class StoreCorrupt(StoreError):
    """Bytes on disk are not the bytes that were written."""


class StoreMissing(StoreError):
    """A shard without its manifest, or a sample that no shard of the store holds."""


class StoreFull(OSError):
    """The disk is full. Not a ValueError, so that no loop can mistake it for one bad sample and go on."""


@contextmanager
def naming_full_disk(base: Path) -> Iterator[None]:
    """Turns "no space left" and "quota exceeded" into a StoreFull that names the shard."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StoreFull) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StoreFull(
            error.errno,
            f"{base}: the disk is full ({error.strerror}); everything committed is kept: free some space and run again",
        ) from error

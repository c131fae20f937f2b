"""Whether a file is the one that a manifest knows: by size and time, and where these differ, as a copy's, by content.

Who reads a file of a data set asks here first, so that nothing is computed from other bytes than the digest is of.
"""

import hashlib
import os
import stat
from pathlib import Path

from pipeline.config import file_digest
from pipeline.datasets.manifest import ShardSample


def digest_now(path: str | Path, found: os.stat_result, known: tuple[str, int | None, int | None]) -> str:
    """sha256 of a file: the one that is known, where its size and time are those known with it; else of its bytes.

    Args:
        path: the file.
        found: its stat.
        known: its digest, "" where there is none, and its bytes and mtime_ns when that was taken.

    Raises:
        OSError: it cannot be read.
    """
    digest, *looked = known
    same = digest and looked == [found.st_size, found.st_mtime_ns]
    return digest if same else file_digest(Path(path))


def changed(path: str | Path, digest: str, size: int | None = None, mtime_ns: int | None = None) -> str:
    """Why a file is not the one that a manifest was made of: the end of a sentence that begins with its name.

    Empty where it is; where the manifest has no digest of it; and where it cannot be read, which its reader tells.

    Args:
        path: the file, or folder.
        digest, size, mtime_ns: as the manifest has them; of a file whose size and time it does not keep, None.
    """
    if not digest:
        return ""
    try:
        found = looked(path)
        if size not in (None, found[0]):
            return _told(f"{size} bytes", str(found[0]))
        now = digest if found == (size, mtime_ns) else digest_of(path)
    except OSError:
        return ""
    return "" if now == digest else _told(f"sha256 {digest[:12]}", now[:12])


def looked(path: str | Path) -> tuple[int, int]:
    """(bytes, mtime_ns) of a file; of a folder all bytes below it, and the latest time. Raises OSError."""
    found = os.stat(path)
    if not stat.S_ISDIR(found.st_mode):
        return found.st_size, found.st_mtime_ns
    each = [os.stat(file) for file in _all_below(path)]
    return sum(of.st_size for of in each), max((of.st_mtime_ns for of in each), default=found.st_mtime_ns)


def digest_of(path: str | Path) -> str:
    """sha256 of a file; of a folder, over the name and sha256 of each file below it. Raises OSError."""
    if not os.path.isdir(path):
        return file_digest(Path(path))
    lines = (f"{file.relative_to(path).as_posix()}\0{file_digest(file)}\n" for file in _all_below(path))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _all_below(path: str | Path) -> list[Path]:
    return sorted(Path(folder, name) for folder, _, names in os.walk(path) for name in names)


def _told(then: str, now: str) -> str:
    return f"was replaced since the manifest was made ({then} then, {now} now); make the manifest again"


def unchanged(folder: Path, row: ShardSample) -> Path:
    """The path of a sample's video or picture, whose bytes are those that the manifest knows.

    Args:
        folder: of the data set's videos.
        row: of the manifest.

    Raises:
        VideoError: replaced.
    """
    path = folder / str(row.path)
    if why := changed(path, row.of_file, row.bytes, row.mtime_ns):
        from pipeline.video import VideoError  # here, as in `build.examine`: a plan loads no decoder

        raise VideoError(path, "replaced", why)
    return path

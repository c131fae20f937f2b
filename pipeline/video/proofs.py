"""What was proved of decoders on files, kept from job to job under the user's cache. Knows no decoder.

A line a file, added under a lock: jobs that prove other files at the same time share a file of proofs. A line that a
killed job left half written is no proof, and a cache that is full, read-only or absent costs time and no job.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
from dataclasses import asdict
from pathlib import Path

from pipeline.files import user_cache
from pipeline.video.facts import VideoFacts

LINE = re.compile(r"([0-9a-f]{32}) (?:proved|doubt: (.+))")
# Of a clip within a file these are its own; all other facts are the file's.
OF_CLIPS = ("start", "duration")
_read: dict[Path, dict[str, str]] = {}


def identity(path: Path, facts: VideoFacts) -> str:
    """What tells a file's content: its size, its time and its facts, which hold checksums of its key frames."""
    found, said = os.stat(path), {name: of for name, of in asdict(facts).items() if name not in OF_CLIPS}
    text = json.dumps([found.st_size, found.st_mtime_ns, said], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def recalled(libraries: str, of: str) -> str | None:
    """What is known of a file: the doubt, "" where it is proved; None where nothing is known.

    Args:
        libraries: the decoder and its libraries, with versions.
        of: the file's `identity`.
    """
    place = _place(libraries)
    return None if place is None else _known(place).get(of)


def keep(libraries: str, of: str, doubt: str) -> None:
    """Notes what a trial has shown, for this process and those to come."""
    place = _place(libraries)
    if place is None:
        return
    _known(place)[of] = doubt
    line = f"{of} {'doubt: ' + ' '.join(doubt.split()) if doubt else 'proved'}\n"
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("ab+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - 1))
            # What a killed job left of a line ends here.
            stream.write(("" if stream.read() in (b"", b"\n") else "\n").encode() + line.encode())


def _place(libraries: str) -> Path | None:
    folder = user_cache()
    return None if folder is None else folder / "proofs" / (re.sub(r"[^\w.+-]+", "-", libraries) + ".txt")


def _known(place: Path) -> dict[str, str]:
    """The proofs of a file, read once a process."""
    if place not in _read:
        lines: list[str] = []
        with contextlib.suppress(OSError):
            lines = place.read_text(encoding="utf-8", errors="replace").splitlines()
        _read[place] = {of[1]: of[2] or "" for of in map(LINE.fullmatch, lines) if of}
    return _read[place]

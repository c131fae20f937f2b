"""Files that are what was written, or an error: JSON that carries its own digest, files whose digest another one keeps.

Knows no document. What people write, as params and labels, can carry none.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.files import write_bytes

DIGEST = "_sha256"  # of all the rest of a document, whatever its layout; nothing of a user's is called so


class Damaged(ValueError):
    """A file that is not the one that was written; the message names it, and the remedy."""


def sha256(content: bytes) -> str:
    """Of a file's content, in hex: what `sha256sum` says of it."""
    return hashlib.sha256(content).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file's bytes, however many."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def json_bytes(document: Mapping[str, Any], indent: int | None = 1, ordered: bool = False) -> bytes:
    """JSON with its digest under "_sha256". Keys are sorted, unless their order says something; NaN is refused."""
    told = json.loads(json.dumps(document, sort_keys=not ordered, allow_nan=False))  # keys as they will be read
    told = {DIGEST: _digest(told), **told}
    text = json.dumps(told, indent=indent, ensure_ascii=False, separators=(",", ":") if indent is None else None)
    return f"{text}\n".encode()


def write_json(path: Path, document: Mapping[str, Any], indent: int | None = 1, ordered: bool = False) -> None:
    """Writes `json_bytes` by rename, and waits for the disk: a reader sees all of it or nothing."""
    write_bytes(path, json_bytes(document, indent, ordered), durable=True)


def read_json(path: Path, remedy: str, unproved: bool = False) -> dict[str, Any]:
    """The document that `write_json` wrote, without its digest.

    Args:
        path: of the file.
        remedy: what to do where it is damaged, an imperative.
        unproved: takes one without a digest too, as earlier versions wrote them.

    Raises:
        FileNotFoundError: it is not there.
        Damaged: it is no JSON, does not fit its digest, or has none, as those of earlier versions.
    """
    content = Path(path).read_bytes()
    try:
        document = json.loads(content)
        digest = document.pop(DIGEST, None)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise Damaged(f"{path} is damaged: it is no JSON object ({error}); {remedy}") from None
    if digest is None and not unproved:
        raise Damaged(f"{path} has no digest of itself: an earlier version wrote it, or it was edited; {remedy}")
    if digest is not None and digest != _digest(document):
        raise Damaged(f"{path} is damaged, or was edited: it does not fit its own digest; {remedy}")
    return document


def read_kept(path: Path, digest: str | None, remedy: str) -> bytes:
    """The content of a file whose digest another one keeps.

    Args:
        path: of the file.
        digest: `sha256` of its content; None where nobody kept any.
        remedy: what to do where it is another, an imperative.

    Raises:
        Damaged: it is not there, or is another.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise Damaged(f"{path} is not there; {remedy}") from None
    if sha256(content) != digest:
        raise Damaged(f"{path} is not the file that was written: it is damaged, edited or of another run; {remedy}")
    return content


def _digest(document: dict[str, Any]) -> str:
    return sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())

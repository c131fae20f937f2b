"""Content keys: the sha256 of canonical JSON of whatever determines bytes. No path of a machine enters one."""

import contextlib
import hashlib
import os
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.digests import file_digest
from pipeline.files import user_cache, write_text

from .backbones import AnyFeature, foreign_code
from .base import ParamsError, canonical_json
from .features import Weights
from .params import Params

# Bumped by hand when the extraction code changes what it writes; tests/test_config.py pins it to the source.
EXTRACTOR_VERSION = 3

KEY_LENGTH = 10
SMALL = 1 << 20  # bytes below which a file is hashed faster than its digest is looked up
SETTLED_NS = 2_000_000_000  # since the last change, for the next one to have another time
END = 1 << 16  # bytes


def content_key(value: Any) -> str:
    """The first 10 hex digits of the sha256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:KEY_LENGTH]


def remembered_digest(path: Path) -> str:
    """sha256 of a file that may be gigabytes large, remembered under the user's cache while the file stays as it is.

    Another file of the same name is seen by its size, times, inode and both ends. `cp -p` and `touch` set the time of
    modification; nobody sets that of change. Not seen is what the file system itself does not see: bits that rot, or
    a middle rewritten where it keeps no time of change. A memory that is damaged, or cannot be kept, is none.
    """
    status = path.stat()
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < SETTLED_NS:
        return file_digest(path)  # it may change again within the tick of a clock
    return _digest(path, _identity(status))


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev


@lru_cache(maxsize=4096)
def _digest(path: Path, identity: tuple[int, ...]) -> str:
    cache = user_cache()
    memory = None if cache is None else cache / "digests"
    if memory is None or identity[0] < SMALL:
        return file_digest(path)
    with path.open("rb") as stream:
        ends = stream.read(END)
        stream.seek(-END, os.SEEK_END)
        ends = hashlib.sha256(ends + stream.read()).hexdigest()
        stream.seek(0)
        name = hashlib.sha256(f"{path}\0{identity}\0{ends}".encode()).hexdigest()
        if (recalled := _recalled(memory / name)) is not None:
            return recalled
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if _identity(os.fstat(stream.fileno())) == identity:
            # A full, read-only or absent home costs time, and no job.
            with contextlib.suppress(OSError):
                write_text(memory / name, f"{digest} {_check(name, digest)}")
    return digest


def _recalled(entry: Path) -> str | None:
    """What is remembered, if it is what was written then."""
    try:
        digest, _, check = entry.read_text(encoding="ascii").partition(" ")
    except (OSError, UnicodeDecodeError):
        return None
    return digest if check == _check(entry.name, digest) else None


def _check(name: str, digest: str) -> str:
    return hashlib.sha256(f"{name} {digest}".encode()).hexdigest()[:16]


def weights_digest(weights: Weights) -> str:
    """What identifies the weights' content: sha256 of the files, `hub@revision`, or `random:<seed>`.

    Raises:
        ParamsError: a local path that does not exist, or cannot be read.
    """
    if weights.random is not None:
        return f"random:{weights.random}"
    if weights.hub is not None:
        return f"{weights.hub}@{weights.revision}"
    path = Path(str(weights.path))
    if not os.path.exists(path):  # of pathlib's, a name that is too long is an error
        raise ParamsError(
            f"weights {path} do not exist; correct the path, or see docs/real-data.md for how to get them"
        )
    # Only what a loader reads counts: a model card edited beside the weights changes nothing.
    tensors = (".safetensors",) if any(path.glob("*.safetensors")) else (".bin",)
    files = (
        [path]
        if path.is_file()
        else sorted(file for file in path.glob("*") if file.suffix in (".json", ".txt", *tensors))
    )
    parts = {}
    for file in files:
        try:
            parts[file.name if path.is_dir() else ""] = remembered_digest(file.resolve())
        except OSError as error:
            raise ParamsError(f"weights {file} cannot be read ({error.strerror}); download or save it again") from None
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def weights_digests(feature: AnyFeature) -> dict[str, str]:
    """What identifies each of a feature's weights, by role.

    Raises:
        ParamsError: a local path that does not exist.
    """
    return {role: weights_digest(weights) for role, weights in feature.sources.items()}


def feature_key(params: Params, name: str) -> str:
    """The key of a feature: backbone, weights, preprocessing, sampling, batch, code version, what it reads.

    Of another package's backbone the code itself enters the key, and its fields are kept apart from ours.

    Raises:
        ParamsError: weights or texts that it depends on are not there, or the source of another package's backbone.
    """
    feature = params.features[name]
    try:
        weights, code = weights_digests(feature), foreign_code(feature)
    except ParamsError as error:
        raise ParamsError(f"features.{name}: {error}") from None
    content = {
        "extractor": EXTRACTOR_VERSION,
        "weights": weights,
        "reads": [feature_key(params, other) for other in feature.reads],
        **(feature.keyed if code is None else {"foreign": code | {"fields": feature.keyed | {"backbone": ""}}}),
    }
    if (texts := feature.compares) is not None:
        content["texts"] = [feature_key(params, texts.feature), _texts_digest(params, texts.dataset)]
    return content_key(content)


def _texts_digest(params: Params, dataset: str) -> str:
    path = Path(params.datasets[dataset].root)
    if not os.path.isfile(path):
        raise ParamsError(f"datasets.{dataset}.root is {path}, which is no file; name one with a text a line")
    return file_digest(path)


def evaluation_key(head: Any) -> str:
    """The key of one evaluation of a run, below the run's folder: of the head's fields that its weights do not see."""
    return content_key(head.evaluated)


def code_digest(*paths: str) -> str:
    """sha256 of Python sources of this package: modules or folders, named relative to it, "." for all of it."""
    package = Path(__file__).parents[1]
    files = [
        file
        for path in paths
        for file in (
            (package / path).rglob("*.py") if (package / path).is_dir() else [(package / path).with_suffix(".py")]
        )
    ]
    digests = {str(file.relative_to(package)): file_digest(file) for file in files}
    return hashlib.sha256(canonical_json(digests).encode()).hexdigest()


def feature_dir(params: Params, dataset: str, feature: str, root: Path = Path("features")) -> Path:
    """features/<dataset>/<feature>-<key>: where the shards of a feature of a data set lie."""
    return root / dataset / f"{feature}-{feature_key(params, feature)}"

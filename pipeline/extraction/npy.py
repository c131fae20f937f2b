"""Imports published frame features, one .npy a sample. Knows no video and no backbone.

The files are not trusted: no pickle is opened, and shape and dtype are checked before anything is stored.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.config import NpyFeature
from pipeline.datasets import ShardSample, changed, imported_digest_of, imported_record, npy_path
from pipeline.datasets.rates import contradiction
from pipeline.extraction.progress import ExtractionError
from pipeline.extraction.rows import Piece
from pipeline.limits import MOST_ROWS


class NpyFrames:
    """In the place of a backbone: the fields of a sample in the store."""

    def __init__(self, feature: NpyFeature) -> None:
        self.fields = {"frames": ((None, feature.width), "float16")}


class NpySource:
    """One sample a job, from <root>/<sample><extension>; its rows are memory-mapped."""

    message_bytes = 0

    def __init__(self, store: str, feature: NpyFeature, samples: Sequence[ShardSample]) -> None:
        self.store, self.feature, self.samples = store, feature, samples

    def __len__(self) -> int:
        return len(self.samples)

    def describe(self, job: int) -> str:
        return f"sample {self.samples[job].sample}"

    def messages(self, job: int) -> Iterator[Piece]:
        sample = self.samples[job].sample
        try:
            path = npy_path(self.feature, sample)
            self._expect_unchanged(self.samples[job], path)
            rows_TD = read_frames_file(path, self.feature.width, self.feature.orientation)
            self._expect_rate(self.samples[job], len(rows_TD))
        except ValueError as error:
            yield Piece(0, sample, reason=str(error))
        else:
            yield Piece(0, sample, len(rows_TD), 0, self.feature.fps, fields={"frames": rows_TD})

    def _expect_unchanged(self, sample: ShardSample, path: Path) -> None:
        """Raises ValueError where a file was replaced since its digest was taken."""
        known = imported_record(sample, self.store)
        if why := changed(path, known["digest"], known["bytes"], known["mtime_ns"]):
            raise ValueError(f"replaced: {path} {why}")

    def _expect_rate(self, sample: ShardSample, rows: int) -> None:
        """Raises ValueError where a sample's rows at the declared rate do not fit the duration of its video."""
        wrong = contradiction(rows, self.feature.fps, sample.facts["duration"]) if sample.facts else ""
        if wrong:
            raise ValueError(f"rate: {npy_path(self.feature, sample.sample)}: {wrong}; correct the feature's fps")


def read_frames_file(path: Path, width: int, orientation: str) -> np.ndarray:
    """A published file, mapped into memory.

    Args:
        path: the .npy file.
        width: D, of one row.
        orientation: "DT" for (D, T) as in the MS-TCN features, "TD" for (T, D).

    Returns:
        (T, D) floats, a view of the file, T at least 1.

    Raises:
        ValueError: the file is missing, empty or no .npy, holds objects or no floats, or has another shape; the message
            names the file, what was found and what was expected.
    """
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"missing: {path} does not exist") from None
    except Exception as error:  # the header is parsed, and sizes in it are believed: any kind of error may follow
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"unreadable: {path} is no array of numbers in a whole .npy file ({cause})") from None
    shape = f"({width}, T)" if orientation == "DT" else f"(T, {width})"
    if not isinstance(found, np.ndarray) or found.dtype.kind != "f":
        got = found.dtype if isinstance(found, np.ndarray) else "an .npz archive"
        raise ValueError(f"unreadable: {path} holds {got}, expected floats of shape {shape}")
    rows_TD = found.T if orientation == "DT" else found
    if found.ndim != 2 or rows_TD.shape[1] != width or not len(rows_TD):
        turned = found.ndim == 2 and rows_TD.shape[0] == width
        hint = f"; set orientation: {'TD' if orientation == 'DT' else 'DT'} if that is how they lie" if turned else ""
        raise ValueError(f"unreadable: {path} has shape {found.shape}, expected {shape}{hint}")
    if len(rows_TD) > MOST_ROWS:
        raise ValueError(f"unreadable: {path} has {len(rows_TD)} rows, and {MOST_ROWS} are read at most")
    return rows_TD


def with_file_digests(store: str, samples: Sequence[ShardSample]) -> list[ShardSample]:
    """The samples with the digests of their .npy files, from the manifest, in place of their videos'.

    Raises:
        ExtractionError: the manifest does not list these files.
    """
    digests = [imported_digest_of(sample, store) for sample in samples]
    if None in digests:
        raise ExtractionError(
            f"the manifest does not say what files {store} is made from; run `snakemake`, or "
            "`python -m pipeline manifest <dataset> <feature>` first"
        )
    return [sample._replace(digest=digest) for sample, digest in zip(samples, digests, strict=True)]

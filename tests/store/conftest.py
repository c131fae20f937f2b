"""Small shards for the store's tests, and ways to end a writer at a chosen moment."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.store import ShardWriter

KINDS = {
    "zarr": {"tokens": ((3, 5), "float16"), "cls": ((7,), "float32")},
    "int8": {"tokens": ((3, 5), "int8_scaled"), "cls": ((7,), "float32")},
    "ragged": {"tokens": ((None, 5), "float16"), "cls": ((None,), "float32")},
    "ragged int8": {"tokens": ((None, 5), "int8_scaled"), "cls": ((None, 7), "float32")},
}
BATCH = 4


class Job:
    """A stand-in for the extraction loop: batches fixed by the list, values that follow from (id, digest)."""

    def __init__(
        self,
        base: Path,
        samples: int = 14,
        failed: tuple[int, ...] = (5,),
        pause: float = 0.0,
        kind: str = "zarr",
    ) -> None:
        self.base, self.failed, self.pause, self.fields = base, failed, pause, KINDS[kind]
        self.samples = [(f"v{i}", f"digest{i}") for i in range(samples)]
        self.log = base.parent.parent / f"{base.parent.name}.computed"

    def arrays(self, sample: str, digest: str) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(list(f"{sample} {digest}".encode()))
        shapes = {name: shape for name, (shape, _) in self.fields.items()}
        if None in shapes["tokens"]:
            length = int(rng.integers(1, 9))
            shapes = {name: (length, *rest) for name, (_, *rest) in shapes.items()}
        return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}

    def writer(self) -> ShardWriter:
        return ShardWriter(self.base, self.samples, self.fields, {"key": "abc", "backbone": "none"})

    def run(self, before_finish: Callable[[], None] | None = None) -> dict:
        """Extracts what is pending and finishes; each computed sample leaves a line in the log."""
        with self.writer() as writer:
            pending = set(writer.pending)
            for start in range(0, len(self.samples), BATCH):
                for number, (sample, digest) in enumerate(self.samples[start : start + BATCH], start):
                    if sample not in pending:
                        continue
                    self._note(sample)
                    if number in self.failed:
                        writer.fail(sample, "short: 3 of 30 frames")
                    else:
                        writer.put(sample, self.arrays(sample, digest), {"times": [number / 3, 1.5]})
                writer.commit()
            if before_finish is not None:
                before_finish()
            return writer.finish()

    def _note(self, sample: str) -> None:
        with self.log.open("a") as stream:
            stream.write(sample + "\n")
        time.sleep(self.pause)

    def computed(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []

    def files(self) -> dict[str, bytes]:
        """Every file of the store, but for the lock."""
        root = self.base.parent
        paths = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")
        return {str(path.relative_to(root)): path.read_bytes() for path in paths}


@pytest.fixture
def job(tmp_path) -> Job:
    return Job(tmp_path / "feature-abc" / "shard-000")


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    """Each way in which a shard keeps its data."""
    return request.param


@pytest.fixture
def make_job(tmp_path) -> Callable[..., Job]:
    """make_job(name, **what Job takes): a job in a directory of its own."""
    return lambda name, **options: Job(tmp_path / name / "shard-000", **options)


@pytest.fixture
def in_child() -> Callable[..., int]:
    """in_child(action, kill_after=None) -> exit status (negative: the signal) of a child that ran the action."""

    def run(action: Callable[[], object], kill_after: float | None = None) -> int:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                action()
                status = 0
            finally:
                os._exit(status)
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    return run


def flip(path: Path, offset: int, bit: int = 3) -> None:
    """Flips one bit of a file; a negative offset counts from its end."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    path.write_bytes(content)


@pytest.fixture(name="flip")
def _flip() -> Callable[..., None]:
    return flip

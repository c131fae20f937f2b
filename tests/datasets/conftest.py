"""Small encoded clips, and data sets made of them."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.config import Dataset
from tests.datasets.made_up import write_set


def encode(path: Path, shade: int = 0, frames: int = 6) -> None:
    """A 32x32 VP9 clip at 12 fps whose content depends on `shade`."""
    with av.open(str(path), "w", format="webm") as container:
        stream = container.add_stream("libvpx-vp9", rate=12)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.options = {"deadline": "realtime", "cpu-used": "8"}
        for index in range(frames):
            picture = np.full((32, 32, 3), (shade + 8 * index) % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> list[bytes]:
    """Twelve different clips, as bytes: encoded once."""
    folder, found = tmp_path_factory.mktemp("clips"), []
    for shade in range(12):
        encode(folder / "clip.webm", shade=20 * shade)
        found.append((folder / "clip.webm").read_bytes())
    assert len(set(found)) == len(found)
    return found


@pytest.fixture
def make_set(tmp_path, clips) -> Callable[..., Dataset]:
    """make_set(train=["1", "2"], ...) -> a data set on disk, two samples a shard, video i holding clip i."""

    def make(shard_size: int = 2, **splits) -> Dataset:
        root = tmp_path / "set"
        write_set(root, **splits)
        for number, sample in enumerate(s for ids in splits.values() for s in ids):
            if not (root / f"{sample}.webm").exists():
                (root / f"{sample}.webm").write_bytes(clips[number % len(clips)])
        return Dataset(layout="ssv2", root=str(root), shard_size=shard_size)

    return make

"""Claims about files that declare more than any machine has: each fails by name, before memory is taken for it."""

import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32

import av
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.backbones import BackboneError
from pipeline.config import NpyFeature
from pipeline.datasets import DatasetError, labels, map_content
from pipeline.datasets.imported import Place
from pipeline.datasets.map_content import MapError, open_map
from pipeline.extraction import imports
from pipeline.limits import MOST_PIXELS
from pipeline.video import VideoError, frames, probe, probing, read_frames
from pipeline.video.map_pictures import read_map_picture
from pipeline.video.pictures import read_picture
from tests.conftest import write_clip
from tests.later import Later

states = Later("pipeline.backbones.states")

SIDE = 13_000  # of a picture that no kind of which is read, though each can be 5 kB
STATUS = Path("/proc/self/status")


@contextmanager
def taking_less_than(megabytes: int) -> Iterator[None]:
    """Fails where this process held so much more than before at any moment."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is what is held now
    before = _held("VmRSS")
    yield
    assert (_held("VmHWM") - before) / 1024 < megabytes


def _held(what: str) -> int:
    line = next(line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith(what))
    return int(line.split()[1])


def png(content: bytes) -> bytes:
    header = content[12:16] + struct.pack(">II", SIDE, SIDE) + content[24:29]
    return content[:12] + header + struct.pack(">I", crc32(header)) + content[33:]


def tiff(content: bytes) -> bytes:
    changed, (begin,) = bytearray(content), struct.unpack_from("<I", content, 4)
    for entry in range(struct.unpack_from("<H", content, begin)[0]):
        place = begin + 2 + 12 * entry
        tag, kind = struct.unpack_from("<HH", content, place)
        if tag in (256, 257):
            struct.pack_into("<H" if kind == 3 else "<I", changed, place + 8, SIDE)
    return bytes(changed)


def jpeg(content: bytes) -> bytes:
    place = content.index(b"\xff\xc0") + 5
    return content[:place] + struct.pack(">HH", SIDE, SIDE) + content[place + 4 :]


PATCHES: dict[str, Callable[[bytes], bytes]] = {
    "png": png,
    "tiff": tiff,
    "jpeg": jpeg,
    "gif": lambda content: content[:6] + struct.pack("<HH", SIDE, SIDE) + content[10:],
    "bmp": lambda content: content[:18] + struct.pack("<ii", SIDE, SIDE) + content[26:],
    "webp": lambda content: content[:26] + struct.pack("<HH", SIDE, SIDE) + content[30:],
}


@pytest.mark.parametrize("kind", PATCHES)
@pytest.mark.parametrize("read", [probe, read_picture, read_map_picture])
def test_a_small_picture_that_declares_a_huge_one_fails_before_it_is_decoded(tmp_path, kind, read):
    path = tmp_path / f"small.{kind}"
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(path)
    path.write_bytes(PATCHES[kind](path.read_bytes()))
    says = f"{SIDE} x {SIDE} pixels; at most {MOST_PIXELS}"
    with taking_less_than(100), pytest.raises(VideoError, match=says) as told:
        read(path)
    assert told.value.reason == "unsupported" and path.stat().st_size < 5000


def test_pictures_of_8k_by_8k_are_within_the_limits_and_13_000_by_13_000_are_not():
    assert 2 * 8192 * 8192 <= MOST_PIXELS < SIDE * SIDE


@pytest.mark.slow
def test_a_picture_of_8k_by_8k_is_read(tmp_path):
    Image.new("L", (8192, 8192), 7).save(tmp_path / "slide.png")
    assert read_picture(tmp_path / "slide.png").shape == (8192, 8192, 3)


@pytest.mark.parametrize("side", [12_000, 30_000])
def test_a_video_that_declares_huge_frames_fails_before_one_is_decoded(tmp_path, side):
    path = tmp_path / "large.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=5)  # whose own header says no size
        stream.width = stream.height = 320
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((320, 320, 3), np.uint8), "rgb24")))
        container.mux(stream.encode())
    content = path.read_bytes()
    small, large = (b"\x82" + struct.pack(">H", size) for size in (320, side))
    for element in (b"\xb0", b"\xba"):  # PixelWidth, PixelHeight
        content = content.replace(element + small, element + large)
    path.write_bytes(content)
    with taking_less_than(100), pytest.raises(VideoError, match=f"a frame has more than {MOST_PIXELS} pixels"):
        probe(path)


def test_a_stream_of_a_larger_size_than_its_container_says_is_not_decoded(tmp_path, monkeypatch):
    write_clip(tmp_path / "small.webm", 1, frames=2)
    probe(tmp_path / "small.webm")
    monkeypatch.setattr(probing, "BOUNDED", {"max_pixels": str(64 * 64 - 1)})  # as if the container said less
    with pytest.raises(VideoError):
        probe(tmp_path / "small.webm")


def test_a_clip_whose_frames_take_more_than_is_decoded_at_once_fails(tmp_path, monkeypatch):
    write_clip(tmp_path / "a.webm", 1, frames=8)
    facts = probe(tmp_path / "a.webm")
    monkeypatch.setattr(frames, "MOST_DECODED", 4 * 64 * 64 * 3)
    assert len(read_frames(tmp_path / "a.webm", [0.0] * 4, facts=facts)) == 4
    with pytest.raises(VideoError, match="5 frames of 64 x 64 are 61440 bytes, 49152 are read at once; make"):
        read_frames(tmp_path / "a.webm", [0.0] * 5, facts=facts)


# --- arrays -----------------------------------------------------------------------------------------------------------


def header_of(path: Path, shape: tuple[int, ...]) -> bytes:
    """What begins a .npy of bytes of that shape."""
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return path.read_bytes()


def test_an_npz_whose_header_declares_3_gb_fails_before_it_is_unpacked(tmp_path):
    content = header_of(tmp_path / "header", (3000, 1000, 1000)) + bytes(1000)
    with zipfile.ZipFile(tmp_path / "map.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", content)
    with taking_less_than(50), pytest.raises(MapError, match=r"unpacks to 3000000000 bytes.*save it as \.npy"):
        open_map(tmp_path / "map.npz", None)


@pytest.mark.parametrize("content", [None, b"no array at all" * 200])
def test_an_npz_is_held_to_what_its_archive_declares_whatever_is_in_it(tmp_path, monkeypatch, content):
    values = np.zeros((20, 10, 10), np.uint8)
    np.savez_compressed(tmp_path / "map.npz", values)
    monkeypatch.setattr(map_content, "MOST_UNPACKED", 2200)
    assert open_map(tmp_path / "map.npz", None).frames == 20
    if content is not None:
        with zipfile.ZipFile(tmp_path / "map.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("arr_0.npy", content)
    monkeypatch.setattr(map_content, "MOST_UNPACKED", 1000)
    with pytest.raises(MapError, match=r"unpacks to \d+ bytes, and 1000 are read at most|no array of numbers"):
        open_map(tmp_path / "map.npz", None)


def read_rows(path: Path, width: int) -> np.ndarray:
    """Imported rows of a file."""
    feature = NpyFeature(backbone="npy", root=str(path.parent), orientation="TD", width=width, fps=1.0)
    return imports.read_array(feature, Place(path))


@pytest.mark.parametrize("shape", [(10**6, 10**6), (10**12,), (2**62, 8)])
def test_a_npy_whose_header_declares_more_than_the_file_holds_is_no_array(tmp_path, shape):
    (tmp_path / "rows.npy").write_bytes(header_of(tmp_path / "rows.npy", shape) + bytes(1000))
    with taking_less_than(50), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, of the product
        with pytest.raises(MapError, match="no array of numbers in a whole"):
            open_map(tmp_path / "rows.npy", None)
        with pytest.raises(ValueError, match=r"unreadable: .*rows\.npy is no array of numbers in a whole"):
            read_rows(tmp_path / "rows.npy", 8)


def test_holes_of_a_sparse_file_are_not_taken_for_a_frame_or_for_rows(tmp_path, monkeypatch):
    path = tmp_path / "sparse.npy"
    path.write_bytes(header_of(path, (1, 20_000, 20_000)))
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size + 20_000 * 20_000)
    with taking_less_than(50), pytest.raises(MapError, match=f"400000000 numbers a frame, and {MOST_PIXELS}"):
        open_map(path, None)
    np.save(path, np.zeros((9, 4), np.float32))
    monkeypatch.setattr(imports, "MOST_ROWS", 8)
    with pytest.raises(ValueError, match=r"sparse\.npy has 9 rows, and 8 are read at most"):
        read_rows(path, 4)


# --- texts and weights ------------------------------------------------------------------------------------------------


def test_a_text_of_labels_is_as_long_as_a_text_of_labels_can_be_and_messages_are_short(tmp_path, monkeypatch):
    path = tmp_path / "labels.txt"
    path.write_text("x" * 10_000, encoding="utf-8")
    with pytest.raises(DatasetError) as told:
        labels.read_label_file(path, "v", frozenset({"a"}))
    assert "has the label" in str(told.value) and len(str(told.value)) < 400 + len(str(path))
    monkeypatch.setattr(labels, "MOST_TEXT", 9_999)
    with pytest.raises(DatasetError, match="has 10000 bytes, and 9999 are read of a text"):
        labels.read_label_file(path, "v", frozenset({"a"}))


def test_weights_that_declare_more_than_they_hold_or_lie_packed_are_refused(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    torch.save({"w": torch.zeros(4)}, tmp_path / "plain.pth")
    assert states.read_state(tmp_path / "plain.pth", "weights").keys() == {"w"}
    packing = zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, packing as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    (tmp_path / "broken.pth").write_bytes((tmp_path / "plain.pth").read_bytes().replace(b"PK\x01\x02", b"PK\x09\x09"))
    for name in ("w.safetensors", "packed.pth", "broken.pth"):
        with taking_less_than(50), pytest.raises(BackboneError, match=f"{name} cannot be read as a state dict"):
            states.read_state(tmp_path / name, "weights")

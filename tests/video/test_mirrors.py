"""A video is shown by its whole display matrix: turned, mirrored, or both."""

import struct

import numpy as np
import pytest

from pipeline.video import VideoError, probe, read_frames
from tests.video.films import HEIGHT, WIDTH, pictures, write_film

ONE = 1 << 16
# (a, b, c, d) moves a point (x, y) to (a x + c y, b x + d y), y downwards; and what that does to rows and columns.
SHOWN = {
    "as it is": ((1, 0, 0, 1), lambda image: image),
    "mirrored left to right": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    "mirrored top to bottom": ((1, 0, 0, -1), lambda image: image[::-1]),
    "turned by half": ((-1, 0, 0, -1), lambda image: image[::-1, ::-1]),
    "turned clockwise": ((0, 1, -1, 0), lambda image: image.swapaxes(0, 1)[:, ::-1]),
    "turned counter-clockwise": ((0, -1, 1, 0), lambda image: image.swapaxes(0, 1)[::-1]),
    "transposed": ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
    "transposed across": ((0, -1, -1, 0), lambda image: image.swapaxes(0, 1)[::-1, ::-1]),
}


def with_matrix(path, a, b, c, d):
    """Writes the matrix into the header of an MP4's track, as phones do."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write_film(tmp_path_factory.mktemp("mirrors") / "a.mp4", "closed", n=6)


@pytest.mark.parametrize("way", SHOWN)
def test_a_video_is_shown_as_its_whole_display_matrix_says(film, tmp_path, way):
    signs, shown = SHOWN[way]
    plain = read_frames(film, [0.1])[0]
    path = tmp_path / "b.mp4"
    path.write_bytes(film.read_bytes())
    with_matrix(path, *(sign * ONE for sign in signs))
    facts = probe(path)
    turned = signs[0] == 0
    assert (facts.width, facts.height) == ((HEIGHT, WIDTH) if turned else (WIDTH, HEIGHT))
    assert facts.decord_doubt == ("not tried" if way == "as it is" else "turned or mirrored")
    np.testing.assert_array_equal(read_frames(path, [0.1], facts=facts)[0], shown(plain))
    assert np.abs(plain[50:].astype(int) - pictures(6)[2][50:]).mean() < 12  # not mirrored by the codec


def test_a_matrix_that_turns_by_another_angle_is_refused(film, tmp_path):
    path = tmp_path / "c.mp4"
    path.write_bytes(film.read_bytes())
    with_matrix(path, 46341, 46341, -46341, 46341)
    with pytest.raises(VideoError, match=r"unreadable: expected turns by 90 degrees and mirrors, got the matrix \[0.7"):
        probe(path)

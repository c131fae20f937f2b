"""Claims about reading files of maps: every kind says the same, and what cannot be meant is refused."""

import zipfile

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.extraction.map_files import MapError, open_map

T, H, W = 12, 6, 8


@pytest.fixture
def values():
    """(T, H, W) bytes."""
    return np.random.default_rng(0).integers(0, 256, (T, H, W), dtype=np.uint8)


def everything(path, home=None):
    """(T, H, W, C) in [0, 1], and what the numbers were divided by."""
    found = open_map(path, home)
    read = found.at(np.arange(found.frames))
    assert read.shape == (found.frames, found.height, found.width, found.channels)
    return read / found.unit, found.unit


def save_pictures(folder, pictures, name="{}.png"):
    folder.mkdir()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / name.format(number))
    return folder


def save_video(path, pictures):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=12, options={"crf": "0"})
        stream.height, stream.width, stream.pix_fmt = *pictures.shape[1:3], "rgb24"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return path


# --- what they say ----------------------------------------------------------------------------------------------------


def test_arrays_say_the_same_whatever_their_dtype_file_and_byte_order(values, tmp_path):
    np.save(tmp_path / "bytes.npy", values)
    np.savez_compressed(tmp_path / "bytes.npz", values)
    np.save(tmp_path / "float.npy", (values / 255).astype(np.float32))
    np.save(tmp_path / "big.npy", (values / 255).astype(">f8"))
    np.save(tmp_path / "channel.npy", values[..., None])
    for name in ("bytes.npy", "bytes.npz", "float.npy", "big.npy", "channel.npy"):
        read, unit = everything(tmp_path / name)
        np.testing.assert_allclose(read[..., 0], values / 255, rtol=1e-6, err_msg=name)
        assert unit == (1 if name in ("float.npy", "big.npy") else 255)


def test_a_mask_of_bools_and_a_single_picture_are_maps_too(values, tmp_path):
    np.save(tmp_path / "mask.npy", values[0] > 100)
    Image.fromarray(values[0]).save(tmp_path / "still.png")
    np.testing.assert_array_equal(everything(tmp_path / "mask.npy")[0][0, ..., 0], values[0] > 100)
    still, _ = everything(tmp_path / "still.png")
    np.testing.assert_allclose(still[0].mean(axis=2), values[0] / 255, rtol=1e-12)


def test_pictures_in_a_folder_follow_each_other_by_number_and_other_files_do_not_count(values, tmp_path):
    folder = save_pictures(tmp_path / "maps", values, "frame {}.png")
    (folder / "notes.txt").write_text("not a picture")
    (folder / "._frame 0.png").write_bytes(b"what another system left behind")
    read, _ = everything(folder)
    np.testing.assert_array_equal(read[..., 0], values / 255, err_msg="10 comes after 9")


def test_a_video_has_its_frames_in_their_order(tmp_path):
    pictures = np.random.default_rng(1).integers(0, 256, (T, 32, 48, 3), dtype=np.uint8)
    read, unit = everything(save_video(tmp_path / "map.mkv", pictures))
    np.testing.assert_array_equal(read, pictures / 255)
    found = open_map(tmp_path / "map.mkv", None)
    np.testing.assert_array_equal(found.at(np.array([2, 7])), pictures[[2, 7]])
    assert found.colours and unit == 255


@pytest.mark.parametrize(
    ("largest", "unit"), [(1.0, 1), (0.4, 1), (250.0, 250), (1.5, 1.5), (3e-7, 3e-7), (1e300, 1e300), (0, 1)]
)
def test_floats_beyond_1_or_far_below_are_divided_by_their_largest(values, tmp_path, largest, unit):
    np.save(tmp_path / "map.npy", values / values.max() * largest)
    read, found = everything(tmp_path / "map.npy")
    assert found == pytest.approx(unit)
    np.testing.assert_allclose(read[..., 0], values / values.max() * (largest / unit), rtol=1e-12)


# --- what is refused --------------------------------------------------------------------------------------------------


class Trap:
    """What a pickle could run."""

    def __reduce__(self):
        return print, ("a pickle was opened",)


def with_number(number):
    array = np.full((2, 3, 4), 0.5, np.float32)
    array[1, 2, 3] = number
    return array


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (with_number(np.nan), "holds nan, expected finite numbers of at least 0"),
        (with_number(np.inf), "holds inf, expected finite"),
        (with_number(-0.25), "holds -0.25, expected finite"),
        (np.zeros((2, 3, 4), np.int64), "holds int64, expected uint8, bool or floats"),
        (np.zeros((2, 3, 4), complex), "holds complex128, expected"),
        (np.zeros(5, np.uint8), r"has the shape \(5,\), expected \(T, H, W\)"),
        (np.zeros((1, 2, 3, 4, 5), np.uint8), r"has the shape \(1, 2, 3, 4, 5\), expected"),
        (np.zeros((0, 3, 4), np.uint8), r"has the shape \(0, 3, 4\), expected .* nothing of them 0"),
    ],
)
def test_numbers_and_shapes_that_are_no_map_are_refused(tmp_path, array, says):
    np.save(tmp_path / "map.npy", array)
    np.savez(tmp_path / "map.npz", array)
    for name in ("map.npy", "map.npz"):
        with pytest.raises(MapError, match=says):
            open_map(tmp_path / name, None)


def test_no_pickle_is_opened(tmp_path, capsys):
    np.save(tmp_path / "map.npy", np.array([Trap()], object), allow_pickle=True)
    np.savez(tmp_path / "map.npz", np.array([Trap()], object))
    for name in ("map.npy", "map.npz"):
        with pytest.raises(MapError, match="cannot be read"):
            open_map(tmp_path / name, None)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["map.npy", "map.npz", "map.png", "map.mp4"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text", "absent"])
def test_files_that_are_damaged_or_absent_are_refused(values, tmp_path, name, damage):
    path = tmp_path / name
    match path.suffix:
        case ".npy":
            np.save(path, values)
        case ".npz":
            np.savez_compressed(path, values)
        case ".png":
            Image.fromarray(values[0]).save(path)
        case ".mp4":
            save_video(path, np.zeros((T, 32, 48, 3), np.uint8))
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "text": b"<html>not found</html>"}.get(damage, b""))
    if damage == "absent":
        path.unlink()
    with pytest.raises(MapError, match=r"cannot be read|does not exist"):
        open_map(path, None)


def test_an_archive_of_two_arrays_or_of_something_else_is_refused(values, tmp_path):
    np.savez(tmp_path / "two.npz", a=values, b=values)
    with pytest.raises(MapError, match=r"holds the arrays \['a', 'b'\], expected one"):
        open_map(tmp_path / "two.npz", None)
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("a.txt", "words")
    with pytest.raises(MapError, match=r"holds bytes, expected|cannot be read"):
        open_map(tmp_path / "text.npz", None)


def test_folders_without_pictures_or_with_two_sizes_are_refused(values, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(MapError, match=r"is a folder without a \.png"):
        open_map(tmp_path / "none", None)
    folder = save_pictures(tmp_path / "two", [values[0], values[1, :, :5]])
    with pytest.raises(MapError, match=r"has pictures of 8 x 6 and 5 x 6 pixels \(0\.png and 1\.png\)"):
        everything(folder)


def test_no_link_is_followed_out_of_the_data_set(values, tmp_path):
    (tmp_path / "set").mkdir()
    np.save(tmp_path / "outside.npy", values)
    Image.fromarray(values[0]).save(tmp_path / "outside.png")
    (tmp_path / "set" / "map.npy").symlink_to(tmp_path / "outside.npy")
    (tmp_path / "set" / "maps").mkdir()
    (tmp_path / "set" / "maps" / "0.png").symlink_to(tmp_path / "outside.png")
    home = str((tmp_path / "set").resolve())
    for name in ("map.npy", "maps"):
        with pytest.raises(MapError, match=r"leads out of the data set's root; set allow_links"):
            open_map(tmp_path / "set" / name, home)
        assert everything(tmp_path / "set" / name, None)[0].size

"""Claims about reading files of maps: every kind says the same, and what cannot be meant is refused."""

import zipfile

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.map_content import MapError, open_map

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


MASK = np.zeros((H, W), np.uint8)
MASK[1:4, 2:6] = 1


def saved(path, image, **options):
    Image.fromarray(image).save(path, **options) if isinstance(image, np.ndarray) else image.save(path, **options)
    return path


def rgba(colours, alpha):
    colours = np.broadcast_to(np.asarray(colours, np.uint8)[..., None] if np.ndim(colours) else colours, (H, W, 3))
    return Image.fromarray(np.dstack([colours, alpha]).astype(np.uint8))


def indexed(indices, colours):
    image = Image.fromarray(indices, "P")
    image.putpalette(colours)
    return image


def masks(folder):
    """One mask in each of the ways in which people write masks of 0 and 1."""
    folder.mkdir()
    np.save(folder / "bytes.npy", MASK)
    np.savez_compressed(folder / "moving.npz", np.stack([MASK] * T))
    np.save(folder / "deep.npy", MASK.astype(np.uint16))
    np.save(folder / "bools.npy", MASK.astype(bool))
    np.save(folder / "full.npy", MASK * np.uint8(255))
    saved(folder / "ones.png", MASK)
    saved(folder / "full.png", MASK * np.uint8(255))
    saved(folder / "one bit.png", MASK.astype(bool))
    saved(folder / "ones.tif", MASK)
    saved(folder / "ones of 16 bits.png", MASK.astype(np.uint16))
    saved(folder / "12 of 16 bits.png", MASK * np.uint16(4095))
    saved(folder / "16 bits.png", MASK * np.uint16(65535))
    saved(folder / "grey palette.png", indexed(MASK, [0, 0, 0, 255, 255, 255]))
    saved(folder / "ramp.png", indexed(MASK, [level for level in range(256) for _ in range(3)]))
    saved(folder / "colours.png", np.dstack([MASK * np.uint8(255)] * 3))
    saved(folder / "alpha.png", rgba(0, MASK * 255))
    saved(folder / "alpha of ones.png", rgba(200, MASK))
    saved(folder / "grey and alpha.png", Image.fromarray(np.dstack([MASK * 0, MASK * 255]), "LA"))
    saved(folder / "both.png", rgba(MASK * 255, MASK * 255))
    saved(folder / "opaque.png", rgba(MASK * 255, MASK * 0 + 255))
    saved(folder / "transparent index.png", indexed(MASK, [0, 0, 0, 255, 255, 255]), transparency=0)
    save_pictures(folder / "folder", [MASK] * T)
    save_video(folder / "ones.mkv", np.repeat(np.stack([MASK] * T)[..., None], 3, axis=3))
    save_video(folder / "full.mkv", np.repeat(255 * np.stack([MASK] * T)[..., None], 3, axis=3))
    return folder


def test_a_mask_is_the_same_in_whatever_way_it_is_written(tmp_path):
    for path in sorted(masks(tmp_path / "masks").iterdir()):
        read, _ = everything(path)
        np.testing.assert_array_equal(read.mean(axis=3), np.stack([MASK] * len(read)), err_msg=path.name)


def test_whole_numbers_are_of_as_many_bits_as_the_largest_of_the_whole_file_needs(values, tmp_path):
    few = values.copy()
    few[1:] = 0
    few[0] = MASK
    np.save(tmp_path / "map.npy", few)
    assert everything(tmp_path / "map.npy")[1] == 1
    few[-1, 0, 0] = 2
    np.save(tmp_path / "map.npy", few)
    save_pictures(tmp_path / "map", few)
    assert everything(tmp_path / "map.npy")[1] == everything(tmp_path / "map")[1] == 255
    for largest, unit in ((255, 255), (256, 1023), (4000, 4095), (16383, 16383), (20000, 65535)):
        deep = np.linspace(0, largest, H * W).reshape(H, W).astype(np.uint16)
        read, found = everything(saved(tmp_path / "deep.png", deep))
        assert found == unit
        np.testing.assert_allclose(read[0].mean(axis=2), deep / unit, rtol=1e-12)


def test_a_map_without_anything_is_a_map(tmp_path):
    read, unit = everything(saved(tmp_path / "none.png", MASK * 0))
    assert unit == 1 and not read.any()


@pytest.mark.parametrize("under", [0, 255, 1])
def test_a_frame_of_which_nothing_is_seen_is_empty_whatever_colour_lies_under_its_alpha(tmp_path, under):
    (tmp_path / "moving").mkdir()
    saved(tmp_path / "moving" / "0.png", rgba(under, MASK * 0))
    saved(tmp_path / "moving" / "1.png", rgba(under, MASK * 255))
    np.testing.assert_array_equal(everything(tmp_path / "moving")[0].mean(axis=3), [MASK * 0, MASK])


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (indexed(MASK, [0, 0, 0, 128, 0, 0]), "its palette gives a colour to each label.*save the mask"),
        (rgba(np.arange(H * W).reshape(H, W), MASK * 255), "its alpha is one map and its colours are another; save"),
    ],
)
def test_a_picture_that_does_not_say_what_is_the_map_is_refused_with_the_remedy(tmp_path, image, says):
    saved(tmp_path / "map.png", image)
    with pytest.raises(MapError, match=f"cannot be read: unsupported: .*{says}"):
        open_map(tmp_path / "map.png", None)


def test_16_bits_in_several_channels_are_refused_since_only_the_upper_8_could_be_read(tmp_path):
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "map.png"), np.repeat(MASK[..., None] * np.uint16(4095), 3, axis=2))
    with pytest.raises(MapError, match="16 bits in each of several channels; save the one that is meant, as grey"):
        open_map(tmp_path / "map.png", None)


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
        (np.zeros((2, 3, 4), np.int64), "holds int64, expected uint8, uint16, bool or floats"),
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


def test_folders_without_pictures_or_with_two_sizes_or_depths_are_refused(values, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(MapError, match=r"is a folder without a \.png"):
        open_map(tmp_path / "none", None)
    folder = save_pictures(tmp_path / "two", [values[0], values[1, :, :5]])
    with pytest.raises(MapError, match=r"pictures of 8 x 6 .* and of 5 x 6 pixels.* \(0\.png and 1\.png\)"):
        everything(folder)

    folder = save_pictures(tmp_path / "deep", [values[0], values[1].astype(np.uint16)])
    with pytest.raises(MapError, match=r"8 x 6 pixels, uint8, and of 8 x 6 pixels, uint16 .*; export them at one"):
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

"""Claims about maps on the grid of a feature's tokens: the frames, the crop and the cells that the tokens saw."""

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import backbones
from pipeline.config import ParamsError, feature_dir, feature_key, parse_params
from pipeline.datasets import NO_MAP, map_digest_of, read_manifest, shard_digest, write_manifest
from pipeline.datasets.map_content import MapError, MapFile, open_map
from pipeline.datasets.map_files import map_digests
from pipeline.extraction import ExtractionError, derive, extract, maps
from pipeline.extraction.maps import area_means, refuse_misfit, shares
from pipeline.extraction.progress import ExtractionFailed
from pipeline.store import FeatureStore, verify
from tests.conftest import write_ssv2
from tests.datasets.made_up import write_images, write_texts
from tests.extraction.small import DINO, R3D, contents, dying_at_the_second_commit, make_manifest, params_of, run
from tests.extraction.test_cams import embed_texts, manifest
from tests.extraction.test_cams import params_of as params_of_pictures

FRAMES, FPS = 36, 12  # of the clips, which are 64 pixels a side
MAPS = {"backbone": "maps", "source": "r3d", "batch": 4, "max_failed": 0.0}


def silent(line):
    pass


# --- area means -------------------------------------------------------------------------------------------------------


def supersampled(frame_HW, box, cells, fine):
    """The mean of each cell, literally: of the pixels in which `fine` x `fine` points of it lie."""
    height, width = frame_HW.shape
    top, left, bottom, right = box
    rows, columns = cells
    means = np.zeros(cells)
    for row in range(rows):
        for column in range(columns):
            for i in range(fine):
                for j in range(fine):
                    y = top + (row + (i + 0.5) / fine) / rows * (bottom - top)
                    x = left + (column + (j + 0.5) / fine) / columns * (right - left)
                    means[row, column] += frame_HW[int(y * height), int(x * width)] / fine**2
    return means


@pytest.mark.parametrize(
    ("size", "box", "cells"),
    [
        ((7, 9), (0.0, 0.0, 1.0, 1.0), (3, 4)),
        ((7, 9), (0.11, 0.07, 0.83, 0.96), (4, 3)),
        ((3, 2), (0.25, 0.1, 0.75, 0.9), (5, 4)),  # cells smaller than pixels
        ((32, 32), (1 / 9, 1 / 9, 8 / 9, 8 / 9), (7, 7)),
    ],
)
def test_a_cell_is_the_mean_over_its_area_in_which_pixels_count_by_their_part(size, box, cells):
    frames = np.random.default_rng(0).random((2, *size, 3))
    means = area_means(frames, box, cells)
    assert means.shape == (2, *cells, 3)
    np.testing.assert_allclose(means[1, ..., 2], supersampled(frames[1, ..., 2], box, cells, 100), atol=0.01)


def test_no_mass_is_lost_or_moved_however_small_a_spot_is():
    """The reason why maps are averaged and not resized: a spot between the points that a resize looks at vanishes."""
    for row, column in np.random.default_rng(0).integers(0, 224, (20, 2)):
        frame = np.zeros((1, 224, 224, 1))
        frame[0, row, column, 0] = 1
        means = area_means(frame, (0, 0, 1, 1), (7, 7))[0, ..., 0]
        assert means[row // 32, column // 32] == pytest.approx(1 / 32**2)
        assert means.sum() == pytest.approx(1 / 32**2)


def test_as_many_cells_as_pixels_are_the_pixels_and_a_constant_stays_itself():
    frame = np.random.default_rng(0).integers(0, 256, (1, 6, 5, 1), dtype=np.uint8)
    np.testing.assert_allclose(area_means(frame, (0, 0, 1, 1), (6, 5)), frame, rtol=1e-12)
    assert shares(37, 0.123, 0.789, 11).sum(axis=1) == pytest.approx(1, abs=1e-12)


# --- the crop ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(150, 200), (201, 149)])
@pytest.mark.parametrize(
    "preprocess",
    [
        {"resize": 61, "crop": [48, 40]},
        {"resize": 60, "crop": [45, 37]},
        {"resize": [61, 75], "crop": [48, 40]},
        {"resize": [60, 73], "crop": [45, 38]},
        {"resize": [64, 48]},
    ],
    ids=str,
)
@pytest.mark.parametrize("backbone", ["dinov3", "r3d18", "clip", "vjepa2"])
def test_the_box_is_what_the_backbone_s_own_preprocessor_cuts_out(backbone, preprocess, size):
    """A frame in which each pixel says where it is, through the preprocessor."""
    chosen = {"backbone": backbone, "weights": {"random": 0}, "sampling": {"frames": 8}, "preprocess": preprocess}
    chosen |= {"output": "cam_tokens"} if backbone == "clip" else {}
    feature = parse_params({"features": {"f": chosen}}).features["f"]
    height, width = size
    frame = np.zeros((1, height, width, 3), np.uint8)
    frame[0, ..., 0], frame[0, ..., 1] = np.arange(height)[:, None], np.arange(width)
    seen = np.asarray(backbones.preprocessor(feature)(frame)[0], np.float64) * (255 if backbone == "dinov3" else 1)
    top, left, bottom, right = feature.preprocess.seen(height, width)
    _, rows, columns = seen.shape
    down = (top + (np.arange(rows) + 0.5) / rows * (bottom - top)) * height - 0.5
    across = (left + (np.arange(columns) + 0.5) / columns * (right - left)) * width - 0.5
    # Beside the edges, where a filter leans inwards. One pixel of the resized frame is at least 2 of the frame.
    np.testing.assert_allclose(seen[0, 3:-3, 9], down[3:-3], atol=0.7)
    np.testing.assert_allclose(seen[1, 9, 3:-3], across[3:-3], atol=0.7)


# --- a small world ----------------------------------------------------------------------------------------------------


def made_map(number, frames=FRAMES, side=32):
    """(T, side, side) bytes that follow from the number."""
    return np.random.default_rng(number).integers(0, 256, (frames, side, side), dtype=np.uint8)


def give_maps(params, features, maps):
    """Writes what each sample's map is into the manifest: the others have none."""
    path = features / "small" / "manifest.parquet"
    frame = read_manifest(path)
    paths = [maps.get(sample) for sample in frame["sample"]]
    frame["map"] = pd.Series(paths, dtype=object)
    frame["map_digest"] = pd.Series(map_digests(params.datasets["small"], paths), dtype=object)
    write_manifest(frame, path)


def derived(params, name, features, lines=None):
    return derive(params, "small", name, 0, features, silent if lines is None else lines.append)


def store_of(world, name) -> FeatureStore:
    params, features = world
    return FeatureStore(feature_dir(params, "small", name, features))


CUT = {"preprocess": {"resize": 80, "crop": [64, 64]}}
WINDOWS = {"sampling": {"frames": 8, "fps": 8, "windows": 3}}


def params_for(root):
    sources = {"r3d": R3D, "cut": R3D | CUT, "windows": R3D | WINDOWS, "dino": DINO, "pooled": R3D | {"pooled": True}}
    sources["pooled"] |= {"atrous": False}
    sources = {name: source | {"max_failed": 0.2} for name, source in sources.items()}
    small = {"small_dino": {"backbone": "derived", "source": "dino", "storage": "int8"}}
    of = {f"of_{name}": MAPS | {"source": name} for name in (*sources, *small) if name != "pooled"}
    return params_of(root, {**sources, **small, **of, "plain": MAPS | {"scale": 1}})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(params, features): 9 clips, of which 4 is broken and 6 has no map, and their maps on each source's tokens."""
    folder = tmp_path_factory.mktemp("maps")
    root = write_ssv2(folder / "set", {"train": 9})
    (root / "4.webm").write_bytes(b"no video")
    params, features = params_for(root), folder / "features"
    make_manifest(params, features)
    for number in range(1, 10):
        np.save(root / f"{number}.npy", made_map(number))
    give_maps(params, features, {str(number): f"{number}.npy" for number in range(1, 10) if number != 6})
    for name in ("r3d", "cut", "windows", "dino", "pooled"):
        extract(params, "small", name, 0, features, silent)
    derived(params, "small_dino", features)
    for name in ("of_r3d", "of_cut", "of_windows", "of_dino", "of_small_dino", "plain"):
        derived(params, name, features)
    return params, features


def frames_of_steps(times, steps):
    """The numbers of the frames of each step: at each time the last frame that has started, within a millisecond."""
    numbers = [max(n for n in range(FRAMES) if n == 0 or n / FPS <= time + 1e-3) for time in times]
    span = len(times) // steps
    return [numbers[step * span : (step + 1) * span] for step in range(steps)]


CENTRES = [(i + 0.5) / 16 * 3 for i in range(16)]
IN_WINDOWS = [start + (i + 0.5) / 8 for start in (0, 1, 2) for i in range(8)]
EIGHTHS = [(i + 0.5) / 8 * 3 for i in range(8)]


@pytest.mark.parametrize(
    ("name", "times", "grid", "box"),
    [
        ("of_r3d", CENTRES, (4, 8, 8), (0, 0, 1, 1)),
        ("plain", CENTRES, (4, 4, 4), (0, 0, 1, 1)),
        ("of_cut", CENTRES, (4, 8, 8), (0.1, 0.1, 0.9, 0.9)),
        ("of_windows", IN_WINDOWS, (6, 8, 8), (0, 0, 1, 1)),
        ("of_dino", EIGHTHS, (8, 8, 8), (0, 0, 1, 1)),
        ("of_small_dino", EIGHTHS, (8, 8, 8), (0, 0, 1, 1)),
    ],
)
def test_a_map_is_the_mean_over_the_very_frames_and_the_very_part_of_the_frame_of_each_token(
    world, name, times, grid, box
):
    store, source = store_of(world, name), "r3d" if name == "plain" else name.removeprefix("of_")
    assert store.fields == {"maps": ((1, *grid), "float16")} and store.provenance["grid"] == list(grid)
    for sample in ("1", "9"):
        stored = store.read([sample], "maps")[0, 0]
        values = made_map(int(sample)) / 255
        for step, numbers in enumerate(frames_of_steps(times, grid[0])):
            over_time = sum(values[number] for number in numbers) / len(numbers)
            fine = 16 if box == (0, 0, 1, 1) else 64
            wanted = supersampled(over_time, box, grid[1:], fine)
            np.testing.assert_allclose(stored[step], wanted, atol=1e-3 if fine == 16 else 0.01)
        assert store.meta(sample)["map_scale"] == 255
        assert store.meta(sample)["times"] == store_of(world, source).meta(sample)["times"]


def test_scales_agree(world):
    fine, plain = (store_of(world, name).load("maps").astype(np.float64) for name in ("of_r3d", "plain"))
    np.testing.assert_allclose(fine.reshape(-1, 1, 4, 4, 2, 4, 2).mean(axis=(4, 6)), plain, atol=1e-3)


def test_a_sample_without_a_map_fails_for_that_reason_and_does_not_count(world):
    store = store_of(world, "of_r3d")
    assert store.failed["6"] == NO_MAP == "no map"
    assert store.failed["4"] == store_of(world, "r3d").failed["4"] and set(store.failed) == {"4", "6"}


def test_provenance_goes_back_to_the_tokens_and_digests_are_of_video_and_map(world):
    store, tokens = store_of(world, "of_cut"), store_of(world, "cut")
    assert store.provenance["reads"]["cut"]["key"] == tokens.key
    assert store.provenance["config"]["backbone"] == "maps"
    assert store.provenance["weights"] == tokens.provenance["weights"]
    frame = read_manifest(world[1] / "small" / "manifest.parquet")
    assert all(store.digest(row.sample) == map_digest_of(row) != row.digest for row in frame.itertuples())
    assert verify(store.directory) == []


def test_a_derivation_that_dies_resumes_at_its_last_commit_and_ends_byte_for_byte_equal(world, monkeypatch):
    params, features = world
    folder = feature_dir(params, "small", "of_r3d", features)
    before = contents(folder)
    with dying_at_the_second_commit(folder, monkeypatch):
        derived(params, "of_r3d", features)
    lines: list[str] = []
    derived(params, "of_r3d", features, lines)
    assert "4 of 9 samples are there" in lines[0]
    assert contents(folder) == before


# --- one clip at a time -----------------------------------------------------------------------------------------------


@pytest.fixture
def one(tmp_path):
    """Writes the maps of two clips whose tokens are there, and derives: the store of what came of it."""
    root = write_ssv2(tmp_path / "set", {"train": 2})
    params, features = params_of(root, {"r3d": R3D, "maps": MAPS | {"max_failed": 1.0}}), tmp_path / "features"
    run(params, features, names="r3d")

    def derive_with(maps, lines=None, **changes):
        chosen = params_of(root, {"r3d": R3D, "maps": MAPS | {"max_failed": 1.0} | changes})
        give_maps(chosen, features, maps)
        derived(chosen, "maps", features, lines)
        return store_of((chosen, features), "maps")

    return SimpleNamespace(root=root, params=params, features=features, derive=derive_with)


def test_a_changed_map_is_rendered_again_and_nothing_else_is(one):
    for number in (1, 2):
        np.save(one.root / f"{number}.npy", made_map(number))
    both = {"1": "1.npy", "2": "2.npy"}
    before = one.derive(both).load("maps")
    tokens = contents(feature_dir(one.params, "small", "r3d", one.features))
    manifest = one.features / "small" / "manifest.parquet"
    asked, of_tokens = shard_digest(manifest, 0, "maps"), shard_digest(manifest, 0)
    np.save(one.root / "2.npy", made_map(77))
    lines: list[str] = []
    after = one.derive(both, lines).load("maps")
    assert "1 of 2 samples are there, 1 to compute" in lines[0]
    assert np.array_equal(after[0], before[0]) and not np.array_equal(after[1], before[1])
    assert shard_digest(manifest, 0, "maps") != asked and shard_digest(manifest, 0) == of_tokens
    lines.clear()
    extract(one.params, "small", "r3d", 0, one.features, lines.append)
    assert "2 of 2 samples are there, 0 to compute" in lines[0]
    assert contents(feature_dir(one.params, "small", "r3d", one.features)) == tokens


def test_every_kind_of_file_gives_the_same_map(one):
    moving, (still, *_) = made_map(1), made_map(2)
    np.save(one.root / "array.npy", moving)
    (one.root / "pictures").mkdir()
    for number, picture in enumerate(moving):
        Image.fromarray(picture).save(one.root / "pictures" / f"{number}.png")
    np.save(one.root / "still.npy", still)
    Image.fromarray(still).save(one.root / "still.png")
    array = one.derive({"1": "array.npy", "2": "still.npy"}).load("maps")
    pictures = one.derive({"1": "pictures", "2": "still.png"}).load("maps")
    np.testing.assert_allclose(array, pictures, atol=1e-3)
    np.testing.assert_array_equal(array[1], array[1][:, :1].repeat(4, axis=1), "a still map is the same at every step")


def test_several_channels_stay_apart_and_colours_are_channels_where_three_are_asked_for(one):
    four = np.random.default_rng(0).random((FRAMES, 16, 16, 4))
    np.savez(one.root / "four.npz", four)
    np.save(one.root / "second.npy", four[..., 1])
    second = one.derive({"1": "second.npy"}).read(["1"], "maps")[0]
    stored = one.derive({"1": "four.npz"}, channels=4).read(["1"], "maps")[0]
    assert stored.shape == (4, 4, 8, 8)
    np.testing.assert_array_equal(stored[1], second[0])
    Image.fromarray(np.full((8, 8, 3), (255, 102, 0), np.uint8)).save(one.root / "colours.png")
    mean = one.derive({"1": "colours.png"}).read(["1"], "maps")[0]
    three = one.derive({"1": "colours.png"}, channels=3).read(["1"], "maps")[0]
    np.testing.assert_allclose(mean, 357 / 3 / 255, atol=1e-3)
    np.testing.assert_allclose(three[:, 0, 0, 0], [1, 0.4, 0], atol=1e-3)


def test_faint_and_bright_floats_keep_their_shape_and_constant_maps_are_maps(one):
    values = made_map(1).astype(np.float64)
    plain = values / values.max()
    for name, array in {"plain": plain, "faint": plain * 1e-6, "bright": values * 100, "zero": plain * 0}.items():
        np.save(one.root / f"{name}.npy", array)
    expected = one.derive({"1": "plain.npy"}).read(["1"], "maps")
    for name, scale in (("faint", 1e-6), ("bright", 25_500)):
        store = one.derive({"1": f"{name}.npy"})
        np.testing.assert_allclose(store.read(["1"], "maps"), expected, atol=1e-3)
        assert store.meta("1")["map_scale"] == pytest.approx(scale)
    assert not one.derive({"1": "zero.npy"}).read(["1"], "maps").any()


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (made_map(1, frames=35), "has 35 frames and not its 36; export one a frame, or a single one"),
        (made_map(1)[:, :, :30], "is 30 x 32 pixels and its frames are 64 x 64, another shape"),
        (np.zeros((FRAMES, 8, 8, 2), np.uint8), "has 2 channels, expected 1; correct channels"),
        (np.full((8, 8), np.nan), "holds nan, expected finite"),
        (np.full((8, 8), -1.0), "holds -1, expected finite"),
        (None, "does not exist"),
    ],
    ids=["length", "shape", "channels", "nan", "negative", "absent"],
)
def test_a_map_that_does_not_fit_fails_by_its_name_and_its_video_s_and_counts(one, array, says):
    if array is not None:
        np.save(one.root / "a map.npy", array)
    np.save(one.root / "2.npy", made_map(2))
    maps = {"1": "a map.npy", "2": "2.npy"}
    store = one.derive(maps)
    assert store.samples == ["2"]
    assert store.failed["1"].startswith("the map a map.npy of 1.webm ") and says in store.failed["1"]
    shutil.rmtree(store.directory)
    with pytest.raises(ExtractionFailed, match=r"the map a map\.npy of 1\.webm"):
        one.derive(maps, max_failed=0.4)


def test_whatever_one_map_s_bytes_raise_is_that_sample_s_failure(one, monkeypatch):
    np.save(one.root / "1.npy", made_map(1))
    np.save(one.root / "2.npy", made_map(2))

    def breaks(path, home):
        if path.name == "1.npy":
            raise OverflowError("of a header that promises too much")
        return open_map(path, home)

    monkeypatch.setattr(maps, "open_map", breaks)
    store = one.derive({"1": "1.npy", "2": "2.npy"})
    assert store.samples == ["2"] and "the map 1.npy of 1.webm cannot be read: OverflowError" in store.failed["1"]


def test_masks_of_0_and_1_on_tokens_are_those_of_0_and_255(one):
    mask = made_map(2)[0] > 127
    Image.fromarray(mask.astype(np.uint8)).save(one.root / "ones.png")
    Image.fromarray(mask * np.uint8(255)).save(one.root / "full.png")
    found = {}
    for name, unit in (("ones", 1), ("full", 255)):
        store = one.derive({"1": f"{name}.png", "2": f"{name}.png"})
        found[name] = store.load("maps")
        assert store.meta("2")["map_scale"] == unit
    assert found["ones"].max() > 0.5
    np.testing.assert_array_equal(found["ones"], found["full"])


def test_a_map_of_one_channel_is_refused_where_colours_are_asked_for(one):
    np.save(one.root / "1.npy", made_map(1))
    assert "has 1 channels, expected 3" in one.derive({"1": "1.npy"}, channels=3).failed["1"]


def test_a_map_rounded_to_whole_pixels_fits_and_one_that_is_cut_does_not():
    def fits(height, width):
        facts = SimpleNamespace(frames=1, height=240, width=427)
        try:
            refuse_misfit(MapFile(1, height, width, 1, False, 1.0, 1.0, np.asarray), facts, 1)
        except MapError:
            return False
        return True

    assert all(fits(*size) for size in [(240, 427), (120, 213), (120, 214), (7, 12), (7, 13), (68, 120), (67, 120)])
    assert not any(fits(*size) for size in [(427, 240), (240, 240), (120, 210), (7, 7), (64, 120), (480, 850)])


def test_a_map_that_was_unreadable_for_the_manifest_is_not_taken_over_under_its_digest(one):
    np.save(one.root / "1.npy", made_map(1))
    give_maps(one.params, one.features, {"1": "1.npy"})
    path = one.features / "small" / "manifest.parquet"
    frame = read_manifest(path)
    frame.loc[frame["sample"] == "1", "map_digest"] = ""
    write_manifest(frame, path)
    derived(one.params, "maps", one.features)
    assert "make the manifest again" in store_of((one.params, one.features), "maps").failed["1"]


def test_a_moving_map_whose_video_is_gone_cannot_be_laid_on_its_frames_but_a_still_one_can(one):
    np.save(one.root / "moving.npy", made_map(1))
    np.save(one.root / "still.npy", made_map(2)[0])
    for number in (1, 2):
        (one.root / f"{number}.webm").unlink()
    store = one.derive({"1": "moving.npy", "2": "still.npy"})
    assert store.samples == ["2"]
    assert "the map moving.npy of 1.webm cannot be laid on its frames: missing" in store.failed["1"]


def test_tokens_of_other_times_than_the_manifest_s_are_refused(one):
    np.save(one.root / "1.npy", made_map(1))
    give_maps(one.params, one.features, {"1": "1.npy"})
    path = one.features / "small" / "manifest.parquet"
    frame = read_manifest(path)
    frame["duration"] = 5.0
    write_manifest(frame, path)
    with pytest.raises(ExtractionError, match=r"the tokens of sample '1' are of other times .* extract them again"):
        derived(one.params, "maps", one.features)


# --- masks of pictures ------------------------------------------------------------------------------------------------


def test_masks_of_objects_lie_on_the_grid_of_clip_s_activation_maps(tmp_path):
    ids = write_images(tmp_path / "small", {"birds": 3}, size=(160, 128))
    (tmp_path / "small" / "masks" / "birds").mkdir(parents=True)
    write_texts(tmp_path / "names.txt", ["square", "circle"])
    masks = [np.random.default_rng(number).random((128, 160)) > 0.5 for number in range(len(ids))]
    for sample, mask in zip(ids, masks, strict=True):
        Image.fromarray(mask).save(tmp_path / "small" / "masks" / sample)
    tokens = {"of_tokens": MAPS | {"source": "tokens", "scale": 1}}
    params = params_of_pictures(tmp_path, object_masks=MAPS | {"source": "cam", "scale": 1}, **tokens)
    document = params.model_dump(mode="json")
    document["datasets"]["small"]["masks"] = "masks"
    params, features = parse_params(document), tmp_path / "features"
    manifest(params, "small", features)
    extract(params, "small", "tokens", 0, features, silent)
    embed_texts(params, features, shards=[0])
    for name in ("cam", "object_masks", "of_tokens"):
        derived(params, name, features)
    store, cam = store_of((params, features), "object_masks"), store_of((params, features), "cam")
    _, rows, columns = cam.provenance["grid"]
    assert store.fields["maps"][0] == (1, 1, rows, columns)
    for sample, mask in zip(ids, masks, strict=True):
        seen = mask[:, 16:144]  # 128 is the shorter side, and the crop
        wanted = seen.reshape(rows, 128 // rows, columns, 128 // columns).mean(axis=(1, 3))
        np.testing.assert_allclose(store.read([sample], "maps")[0, 0, 0], wanted, atol=1e-3)
    np.testing.assert_array_equal(store.load("maps"), store_of((params, features), "of_tokens").load("maps"))


# --- params and training ----------------------------------------------------------------------------------------------


def test_the_key_follows_the_source_and_each_option_but_no_name(world):
    params, _ = world
    document = params.model_dump(mode="json")
    document["features"] |= {
        "named": document["features"]["r3d"],
        "same": MAPS | {"source": "named"},
        "finer": MAPS | {"scale": 4},
        "colours": MAPS | {"channels": 3},
    }
    params = parse_params(document)
    keys = {name: feature_key(params, name) for name in ("of_r3d", "same", "finer", "colours", "plain", "of_cut")}
    assert keys["same"] == keys["of_r3d"] and len(set(keys.values())) == 5


def test_a_source_without_a_token_grid_is_refused(world):
    params, features = world
    # As of a feature that does not say what it gives: of one that does, params say it.
    laid = params.features["of_r3d"].model_copy(update={"source": "pooled"})
    unsaid = params.model_copy(update={"features": params.features | {"of_pooled": laid}})
    with pytest.raises(ExtractionError, match=r"pooled has the fields .* no token grid to lay maps on"):
        derived(unsaid, "of_pooled", features)
    with pytest.raises(ExtractionError, match=r"of_r3d is derived from r3d: run `derive small of_r3d`"):
        extract(params, "small", "of_r3d", 0, features, silent)
    document = params.model_dump(mode="json")
    for source in ("of_r3d", "pooled"):
        document["features"]["on_it"] = MAPS | {"source": source}
        with pytest.raises(ParamsError, match=rf"features\.on_it\.source names '{source}', which has no token grid"):
            parse_params(document)

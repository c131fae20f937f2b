"""Claims about what is no video: still pictures, texts, and other people's .npy files."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from pipeline.config import feature_dir
from pipeline.extraction import ExtractionFailed
from pipeline.store import FeatureStore, verify
from tests.backbones.small_clip import save_clip
from tests.conftest import write_ssv2
from tests.datasets.made_up import write_labelled
from tests.extraction.small import DINO, contents, params_of, run, with_workers


def store_of(params, features, name="dino") -> FeatureStore:
    store = FeatureStore(feature_dir(params, "small", name, features))
    assert verify(store.directory) == []
    return store


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    """Five good pictures of several formats, and one that is none."""
    folder, rng = tmp_path / "set", np.random.default_rng(0)
    for name in ("a/1.png", "a/2.jpg", "b/1.png", "b/2.webp", "c.bmp"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 30, 3), np.uint8)).save(folder / name)
    (folder / "b/broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return folder


def test_pictures_are_videos_of_one_frame(pictures, tmp_path):
    one = DINO | {"sampling": {"frames": 1}, "max_failed": 0.2}
    params = params_of(pictures, {"dino": one}, layout="images")
    manifest = run(params, tmp_path / "features")
    assert manifest["counts"] == {"ok": 5, "failed": 1}
    store = store_of(params, tmp_path / "features")
    assert list(store.failed) == ["b/broken.jpg"]
    assert store.fields["patch_tokens"][0] == (1, 16, 128)
    assert store.meta("a/1.png") == {"times": [0.0]}
    run(with_workers(params, 2), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "features")


# --- texts ------------------------------------------------------------------------------------------------------------


def clip_text(folder, **fields):
    chosen = {"backbone": "clip_text", "weights": {"path": str(folder)}, "prompts": ["a photo of a {}"], "batch": 4}
    return {"words": chosen | fields}


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


def test_the_id_of_a_text_is_the_text(clip_folder, tmp_path):
    words = ["bird", "scene of a bird", "a/b", "..", "très bien", "water"]
    (tmp_path / "words.txt").write_text("\n".join(words))
    params = params_of(tmp_path / "words.txt", clip_text(clip_folder), layout="texts")
    run(params, tmp_path / "features", names="words")
    store = store_of(params, tmp_path / "features", "words")
    assert store.samples == words and store.fields == {"text_embed": ((40,), "float32")}
    vectors = store.load("text_embed")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert len(np.unique(vectors.round(4), axis=0)) == len(words)


def test_a_text_that_the_backbone_refuses_fails_by_name_and_the_others_do_not(clip_folder, tmp_path):
    long = "bird " * 99
    (tmp_path / "words.txt").write_text("\n".join(["bird", "water", long.strip(), "sand", "snow"]))
    params = params_of(tmp_path / "words.txt", clip_text(clip_folder, max_failed=0.5), layout="texts")
    run(params, tmp_path / "features", names="words")
    store = store_of(params, tmp_path / "features", "words")
    assert store.samples == ["bird", "water", "sand", "snow"]
    assert "tokens" in store.failed[long.strip()]


# --- other people's features ------------------------------------------------------------------------------------------

WIDTH = 6


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_ssv2(tmp_path_factory.mktemp("npy") / "set", {"train": 8})


def published(folder, orientation="DT", dtype=np.float32) -> dict[str, np.ndarray]:
    """(T, D) by sample, saved as `orientation` says."""
    rng, rows = np.random.default_rng(0), {}
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, 9):
        rows[str(number)] = rng.normal(size=(40 + number, WIDTH)).astype(dtype)
        np.save(folder / f"{number}.npy", rows[str(number)].T if orientation == "DT" else rows[str(number)])
    return rows


def npy(folder, **fields):
    chosen = {"backbone": "npy", "root": str(folder), "orientation": "DT", "width": WIDTH, "fps": 15.0, "batch": 3}
    return {"npy": chosen | fields}


@pytest.mark.parametrize("orientation", ["DT", "TD"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_published_features_become_rows_in_either_orientation(videos, tmp_path, orientation, dtype):
    rows = published(tmp_path / "npy", orientation, dtype)
    params = params_of(videos, npy(tmp_path / "npy", orientation=orientation))
    run(params, tmp_path / "features", names="npy")
    store = store_of(params, tmp_path / "features", "npy")
    assert store.fields == {"frames": ((None, WIDTH), "float16")}
    for sample, wanted in rows.items():
        np.testing.assert_array_equal(store.read_ragged([sample], "frames")[0], wanted.astype(np.float16))
        source = (tmp_path / "npy" / f"{sample}.npy").read_bytes()
        assert store.digest(sample) == hashlib.sha256(source).hexdigest()
        assert store.meta(sample) == {"fps": 15.0}
    assert str(tmp_path) not in str(store.provenance)


class Pickled:
    """What a hostile file would have run."""

    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was opened')",)


def spoil(folder) -> dict[str, str]:
    """Every kind of file that is no feature; returns what each is told."""
    (folder / "1.npy").unlink()
    (folder / "2.npy").write_bytes(b"")
    np.save(folder / "3.npy", np.zeros((30, WIDTH), np.float32))
    np.save(folder / "4.npy", np.array([Pickled()], dtype=object), allow_pickle=True)
    np.save(folder / "5.npy", np.full((WIDTH, 45), np.nan, np.float32))
    np.save(folder / "6.npy", np.zeros((WIDTH, 9), np.int64))
    (folder / "7.npy").write_bytes((folder / "7.npy").read_bytes()[:200])
    return {
        "1": "missing: ",
        "2": "no array",
        "3": "set orientation: TD",
        "4": "no array",
        "5": "nan",
        "6": "int64",
        "7": "no array",
    }


def test_a_file_that_is_no_feature_fails_its_sample_by_name_and_no_pickle_is_opened(videos, tmp_path):
    published(tmp_path / "npy")
    told = spoil(tmp_path / "npy")
    params = params_of(videos, npy(tmp_path / "npy", max_failed=0.9))
    run(params, tmp_path / "features", names="npy")
    store = store_of(params, tmp_path / "features", "npy")
    assert store.samples == ["8"] and store.failed.keys() == told.keys()
    assert {sample: word for sample, word in told.items() if word not in store.failed[sample]} == {}
    with pytest.raises(ExtractionFailed, match="7 of 8"):
        run(params_of(videos, npy(tmp_path / "npy", max_failed=0.1)), tmp_path / "other", names="npy")


def test_files_that_come_or_change_later_are_read_then_and_no_others(videos, tmp_path):
    rows = published(tmp_path / "npy")
    (tmp_path / "npy" / "4.npy").rename(tmp_path / "kept.npy")
    params = params_of(videos, npy(tmp_path / "npy", max_failed=0.5))
    run(params, tmp_path / "features", names="npy")
    (tmp_path / "kept.npy").rename(tmp_path / "npy" / "4.npy")
    np.save(tmp_path / "npy" / "6.npy", rows["6"].T[:, :35])
    lines: list[str] = []
    run(params, tmp_path / "features", lines, names="npy")
    assert "computed 2 of 8" in "".join(lines)
    store = store_of(params, tmp_path / "features", "npy")
    assert store.failed == {} and store.lengths("frames")["6"] == 35 and store.lengths("frames")["4"] == 44


def test_rows_whose_rate_contradicts_their_video_fail_their_sample(videos, tmp_path):
    """The videos last 3 s. At 15 a second 41 rows are 2.7 s, 90 would be 6."""
    published(tmp_path / "npy")
    np.save(tmp_path / "npy" / "2.npy", np.zeros((WIDTH, 90), np.float32))
    params = params_of(videos, npy(tmp_path / "npy", max_failed=0.2))
    run(params, tmp_path / "features", names="npy")
    store = store_of(params, tmp_path / "features", "npy")
    assert store.failed.keys() == {"2"}
    told = "2.npy: 90 rows at 15 a second are 6.0 s, but its video lasts 3.0 s, at which they would be 30 a second"
    assert told in store.failed["2"] and "correct the feature's fps" in store.failed["2"]
    with pytest.raises(ExtractionFailed, match="7 of 8"):  # the declared rate is that of none
        run(params_of(videos, npy(tmp_path / "npy", fps=30.0)), tmp_path / "other", names="npy")


def test_videos_that_are_gone_do_not_matter_to_their_published_features(tmp_path):
    root = write_ssv2(tmp_path / "set", {"train": 8})
    published(tmp_path / "npy")
    (root / "3.webm").unlink()
    params = params_of(root, npy(tmp_path / "npy"))
    assert run(params, tmp_path / "features", names="npy")["counts"] == {"ok": 8, "failed": 0}


@pytest.mark.parametrize(
    ("orientation", "samples"),
    [
        ("DT", ["P03_cam01_P03_coffee", "P03_stereo01_P03_cereals"]),
        ("DT", ["rgb-01-1", "rgb-01-2"]),
        ("TD", ["S1_Cheese_C1", "S2_Tea_C1"]),
    ],
)
def test_published_features_stand_for_the_videos_of_a_labelled_set_under_its_ids(tmp_path, orientation, samples):
    root, labels = tmp_path / "set", dict.fromkeys(samples, "SIL take_cup take_cup SIL pour_coffee")
    lists = {f"splits/{kind}.split1.bundle": [f"{s}.txt"] for kind, s in zip(("train", "test"), samples, strict=True)}
    write_labelled(root, lists, labels)
    (root / "features").mkdir()
    rows = {sample: np.random.default_rng(place).normal(size=(5, WIDTH)) for place, sample in enumerate(samples)}
    for sample, values in rows.items():
        np.save(root / f"features/{sample}.npy", values.T if orientation == "DT" else values)
    params = params_of(root, npy(root / "features", orientation=orientation), layout="mstcn", videos=None)
    assert run(params, tmp_path / "features", names="npy")["counts"] == {"ok": 2, "failed": 0}
    store = store_of(params, tmp_path / "features", "npy")
    for sample, values in rows.items():
        np.testing.assert_array_equal(store.read_ragged([sample], "frames")[0], values.astype(np.float16))

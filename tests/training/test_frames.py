"""Videos with a label a row: labels meet rows, held-out classes are hidden, batches are padded."""

from collections import Counter

import numpy as np
import pytest
import torch

from pipeline.datasets import DatasetError
from pipeline.datasets.manifest import read_manifest, write_manifest
from pipeline.training.dataset import DataError
from pipeline.training.frames import IGNORE, Rows, majority, open_videos, transcript
from tests.training.procedures import CLASSES, UNSEEN, WIDTH, make, rows_of, table, write_rows, write_texts

WANTED = {
    "train": "train",
    "evaluated": "test",
    "holdout": 0.2,
    "seed": 0,
    "sample_rate": 1,
    "tolerance": 2,
    "label_fps": None,
    "background": ("background",),
    "unseen": None,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make(tmp_path_factory.mktemp("procedures"))


def opened(world, **changes):
    return open_videos(world.manifest, {"frames": world.stores["frames"]}, **{**WANTED, **changes})


def labels_of(world, sample):
    row = read_manifest(world.manifest).set_index("sample").loc[sample]
    return np.concatenate([[CLASSES.index(run["label"])] * run["frames"] for run in row["segments"]])


def test_every_row_has_the_label_of_its_frame_and_every_video_a_part(world):
    videos = opened(world)
    assert [len(videos.parts[part]) for part in ("train", "holdout", "evaluated")] == [16, 4, 8]
    assert videos.seen.all() and videos.background == (0,) and videos.text is None
    for sample, labels in videos.labels.items():
        assert np.array_equal(labels, labels_of(world, sample))
        assert np.array_equal(videos.truth[sample], labels)


def test_held_out_classes_are_hidden_from_training_and_kept_in_the_truth(world):
    videos, hidden = opened(world, unseen="held_out"), [CLASSES.index(name) for name in UNSEEN]
    assert np.flatnonzero(~videos.seen).tolist() == sorted(hidden)
    for sample, labels in videos.labels.items():
        truth = labels_of(world, sample)
        assert np.array_equal(videos.truth[sample], truth)
        assert np.array_equal(labels, np.where(np.isin(truth, hidden), IGNORE, truth))


def test_what_is_hidden_decides_the_digest_and_what_is_evaluated_does_not(world, tmp_path):
    assert opened(world).digest != opened(world, unseen="held_out").digest
    frame = read_manifest(world.manifest)
    frame = frame[frame["sample"] != "test-0"].reset_index(drop=True)
    write_manifest(frame, tmp_path / "manifest.parquet")
    fewer = open_videos(tmp_path / "manifest.parquet", {"frames": world.stores["frames"]}, **WANTED)
    assert fewer.digest == opened(world).digest and len(fewer.parts["evaluated"]) == 7


def test_stand_ins_are_seen_classes_that_are_hidden_too(world):
    videos = opened(world, unseen="held_out")
    taught = videos.standing_in(0.3, seed=1)
    playing = np.flatnonzero(videos.seen & ~taught.seen)
    assert len(playing) == 2 and 0 not in playing and not taught.seen[~videos.seen].any()
    for sample, labels in taught.labels.items():
        assert np.array_equal(labels == IGNORE, ~taught.seen[videos.truth[sample]])
    assert taught.digest != videos.digest
    assert not np.array_equal(videos.standing_in(0.3, seed=2).seen, taught.seen)
    with pytest.raises(DataError, match="too few are left"):
        videos.standing_in(0.99, seed=0)


@pytest.mark.parametrize("rate", [2, 3])
def test_every_few_rows_one_is_read_with_the_commonest_label(world, rate):
    videos = opened(world, sample_rate=rate)
    table_of = Rows(videos, videos.parts["train"], 1e9)
    for place, sample in enumerate(videos.parts["train"]):
        truth = labels_of(world, sample)
        groups = [truth[start : start + rate].tolist() for start in range(0, len(truth), rate)]
        expected = [Counter(group).most_common(1)[0][0] for group in groups]
        assert videos.labels[sample].tolist() == expected
        stored = rows_of(sample, read_manifest(world.manifest).set_index("sample").loc[sample]["segments"])
        assert np.array_equal(table_of[[place]]["frames"][0], stored[::rate])
        assert np.array_equal(videos.row_of_label[sample], np.arange(len(truth)) // rate)


def test_labels_at_another_rate_belong_to_the_row_nearest_in_time(world, tmp_path):
    frame = table({"train": 3, "test": 1})
    write_manifest(frame, tmp_path / "manifest.parquet")
    halves = {
        sample: rows_of(sample, runs)[::2] for sample, runs in zip(frame["sample"], frame["segments"], strict=True)
    }
    store = write_rows(tmp_path / "rows", frame, halves)  # a row every 1/12 s, two labels for each
    videos = open_videos(tmp_path / "manifest.parquet", {"frames": store}, **{**WANTED, "label_fps": 24.0})
    for sample, rows in halves.items():
        labels = videos.truth[sample]
        assert np.array_equal(videos.row_of_label[sample], np.minimum(np.arange(len(labels)) // 2, len(rows) - 1))


def test_labels_that_may_count_frames_of_a_variable_rate_are_refused_for_rows_a_second(tmp_path):
    """Their number fits the rows and the frames: only a declared rate says that they are of moments."""
    frame = table({"train": 3, "test": 1})
    store, path = write_rows(tmp_path / "rows", frame), tmp_path / "manifest.parquet"
    rows = frame["segments"].map(lambda runs: sum(run["frames"] for run in runs))
    frame["frames"], frame["uneven"] = rows.astype("Int64"), [0.0, 1.3, 0.05, None]
    write_manifest(frame, path)
    told = r"train-1: its (\d+) labels are as many as the frames .* unequal times, up to 1\.30 s .* rows .* 12 a second"
    with pytest.raises(DataError, match=told + r"; set label_fps: 12 .* or else encode the video at a constant rate"):
        open_videos(path, {"frames": store}, **WANTED)
    assert open_videos(path, {"frames": store}, **{**WANTED, "label_fps": 12.0}).truth.keys() == set(frame["sample"])
    write_manifest(frame.assign(frames=rows.astype("Int64") + 9), path)
    assert open_videos(path, {"frames": store}, **WANTED).truth.keys() == set(frame["sample"]), "no label a frame"


@pytest.mark.parametrize("by", [-2, 2, -3, 3])
def test_a_few_frames_of_difference_are_cut_and_more_are_an_error_that_names_the_video(tmp_path, by):
    frame = table({"train": 3, "test": 1})
    write_manifest(frame, tmp_path / "manifest.parquet")
    whole = rows_of("train-1", frame.set_index("sample").loc["train-1"]["segments"])
    changed = whole[:by] if by < 0 else np.concatenate([whole, whole[:by]])
    store = write_rows(tmp_path / "rows", frame, {"train-1": changed})
    if abs(by) > WANTED["tolerance"]:
        with pytest.raises(DataError, match=r"train-1: \d+ labels and \d+ rows.*differ by 3.*tolerance of 2"):
            open_videos(tmp_path / "manifest.parquet", {"frames": store}, **WANTED)
        return
    videos = open_videos(tmp_path / "manifest.parquet", {"frames": store}, **WANTED)
    assert len(videos.truth["train-1"]) == min(len(whole), len(changed))
    assert len(videos.labels["train-1"]) == len(changed)
    assert (videos.labels["train-1"][len(whole) :] == IGNORE).all()


def test_a_batch_is_padded_and_says_where(world):
    videos = opened(world, unseen="held_out")
    ids = videos.parts["train"][:3]
    for memory in (1e9, 0):
        batch = Rows(videos, ids, memory)[[2, 0, 1]]
        lengths = [len(videos.labels[ids[row]]) for row in (2, 0, 1)]
        assert batch["mask"].sum(dim=1).tolist() == lengths
        assert batch["frames"].shape == (3, max(lengths), WIDTH)
        assert not batch["frames"][~batch["mask"]].any() and (batch["labels"][~batch["mask"]] == IGNORE).all()
        for place, row in enumerate((2, 0, 1)):
            labels = videos.labels[ids[row]]
            assert torch.equal(batch["labels"][place][: lengths[place]], torch.from_numpy(labels))
            steps = batch["transcript"][place]
            assert steps[steps != IGNORE].tolist() == transcript(labels).tolist()


def test_majority_is_a_count_and_hidden_labels_win_no_tie():
    random = np.random.default_rng(0)
    labels, rows = random.integers(-1, 4, 200), np.sort(random.integers(0, 30, 200))
    for row, found in enumerate(majority(labels, rows, 30)):
        votes = Counter(labels[rows == row].tolist())  # of equals it names first what it met first
        most = max(votes.values(), default=0)
        best = [label for label, count in votes.most_common() if count == most and label != IGNORE]
        assert found == (best[0] if best else IGNORE)


def test_of_equally_common_labels_the_first_in_time_is_the_row_s():
    labels, rows = np.array([3, 1, 1, 3, 2, 0, IGNORE, 2]), np.array([0, 0, 0, 0, 1, 1, 2, 2])
    assert majority(labels, rows, 4).tolist() == [3, 2, 2, IGNORE]


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"unseen": "nothing"}, "class_lists are .*held_out"),
        ({"background": ("SIL",)}, "names the class 'SIL'"),
        ({"evaluated": "train"}, "train_split and eval_split are both"),
        ({"train": "exercise"}, r"splits are \['test', 'train'\]"),
    ],
)
def test_what_the_data_set_does_not_have_is_told_by_name(world, changes, sentence):
    with pytest.raises(DataError, match=sentence):
        opened(world, **changes)


def test_a_video_in_several_folds_belongs_to_the_one_that_is_asked_for(tmp_path):
    frame = table({"train": 4})
    frame["split"] = [
        "train.split1+test.split2",
        "train.split1+train.split2",
        "test.split1+train.split2",
        "train.split1",
    ]
    write_manifest(frame, tmp_path / "manifest.parquet")
    store = write_rows(tmp_path / "rows", frame)
    wanted = {**WANTED, "train": "train.split1", "evaluated": "test.split1", "holdout": 0.4}
    videos = open_videos(tmp_path / "manifest.parquet", {"frames": store}, **wanted)
    assert videos.parts["evaluated"] == ["train-2"] and len(videos.parts["train"] + videos.parts["holdout"]) == 3


def test_a_class_without_a_text_is_told_by_name(world, tmp_path):
    texts = write_texts(tmp_path / "texts", CLASSES[:-1])
    with pytest.raises(DataError, match="lacks 1 of 10 classes, first 'shake cross'"):
        open_videos(world.manifest, {"frames": world.stores["frames"], "text": texts}, **WANTED)


def test_two_classes_of_one_text_are_told_by_name(world, tmp_path):
    made, again = table({"train": 4, "test": 2}), CLASSES[1].replace("_", " ")
    made.attrs["classes"] = [*CLASSES, again]
    write_manifest(made, tmp_path / "manifest.parquet")
    with pytest.raises(
        DatasetError, match=f"the vocabulary: the classes '{CLASSES[1]}' and '{again}' have one embedding"
    ):
        open_videos(tmp_path / "manifest.parquet", world.stores, **WANTED)


def test_the_bytes_of_the_longest_video_are_known_before_any_is_read_in_a_batch(world):
    videos = opened(world)
    ids = videos.parts["train"]
    rows = Rows(videos, ids, memory=0)
    sizes = [sum(of.nbytes for of in rows[[row]].values()) for row in range(len(ids))]
    assert len(set(sizes)) > 1 and rows.bytes_of_longest == max(sizes)

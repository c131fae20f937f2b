"""Claims about the manifest table, its file and its shards."""

import hashlib
import json
import os
import time

import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipeline.config import Dataset, code_digest
from pipeline.datasets import (
    DatasetError,
    NoSuchShard,
    ShardSample,
    classes,
    manifest,
    read_annotations,
    read_looked_at,
    read_manifest,
    read_shards,
    shard_digest,
    shard_digests,
    shard_reader,
    shard_samples,
    write_manifest,
)
from tests.datasets.made_up import OFFICIAL_COUNTS, made_up_manifest, write_annotations, write_set


@pytest.fixture
def frame(tmp_path) -> pd.DataFrame:
    """Five samples in three shards; the second is not ok."""
    write_set(tmp_path, train=["1", "2", "3"], validation=["4"], test=["5"])
    made = made_up_manifest(read_annotations(Dataset(layout="ssv2", root=str(tmp_path))), shard_size=2)
    made.loc[1, "status"] = "missing"
    made.loc[1, "digest"] = ""
    made.loc[1, ["bytes", "mtime_ns", *manifest.FACTS]] = None
    return made


def test_a_manifest_reads_back_as_it_was_written_types_and_absences_included(frame, tmp_path):
    write_manifest(frame, tmp_path / "m.parquet")
    again = read_manifest(tmp_path / "m.parquet")
    pd.testing.assert_frame_equal(again, frame)
    assert again.attrs == frame.attrs
    assert again["mtime_ns"].tolist()[0] == 1_700_000_000_000_000_000
    assert again["label"].tolist()[3:] == ["Holding something", None]
    assert again["width"].isna().tolist() == [False, True, False, False, False]


def test_a_shard_s_samples_are_read_from_the_file_alone_wherever_its_rows_lie(frame, tmp_path):
    path = tmp_path / "m.parquet"
    mixed = frame.iloc[[0, 4, 2, 1, 3]].reset_index(drop=True)
    mixed.attrs = frame.attrs
    write_manifest(mixed, path)
    samples = shard_reader(path)
    for shard in range(3):
        assert samples(shard) == shard_samples(mixed, shard)
    assert [sample.sample for sample in samples(0)] == ["1", "2"]
    with pytest.raises(NoSuchShard, match=r"shard 9 is not in .*m\.parquet, which has 3 shards \(0 to 2\)"):
        samples(9)
    with pytest.raises(DatasetError, match="is not there"):
        shard_reader(tmp_path / "other" / "manifest.parquet")


def test_equal_content_is_equal_bytes_and_an_equal_file_is_not_touched(frame, tmp_path):
    path, other = tmp_path / "m.parquet", tmp_path / "other" / "m.parquet"
    assert write_manifest(frame, path)
    assert write_manifest(frame.copy(), other)
    assert path.read_bytes() == other.read_bytes()
    os.utime(path, ns=(1, 1))
    assert not write_manifest(read_manifest(other), path)
    assert path.stat().st_mtime_ns == 1
    frame.loc[0, "digest"] = "f" * 64
    assert write_manifest(frame, path)
    assert [file.name for file in other.parent.iterdir()] == ["m.parquet"]


def test_a_manifest_that_is_absent_or_broken_is_an_error_that_names_it(frame, tmp_path):
    with pytest.raises(
        DatasetError, match=r"set/none\.parquet is not there: `python -m pipeline manifest set` makes it"
    ):
        read_manifest(tmp_path / "set" / "none.parquet")
    for reader in (read_manifest, read_shards, shard_digests):
        if reader is not read_manifest:  # Snakemake has to see this one
            with pytest.raises(FileNotFoundError, match=r"none\.parquet"):
                reader(tmp_path / "none.parquet")
        (tmp_path / "broken.parquet").write_bytes(b"PAR1 is not enough")
        with pytest.raises(DatasetError, match=r"broken\.parquet is not a Parquet file"):
            reader(tmp_path / "broken.parquet")
    with pytest.raises(DatasetError, match="is not a Parquet file"):
        write_manifest(frame, tmp_path / "broken.parquet")
    pq.write_table(manifest.to_table(frame).drop_columns(["shard"]), tmp_path / "old.parquet")
    with pytest.raises(DatasetError, match=r"old\.parquet lacks the columns shard"):
        read_manifest(tmp_path / "old.parquet")


def test_a_manifest_of_an_earlier_version_lacks_columns_and_reads_as_without_what_they_say(frame, tmp_path):
    pq.write_table(manifest.to_table(frame).drop_columns(sorted(manifest.LATER)), tmp_path / "old.parquet")
    old, known = (
        read_manifest(tmp_path / "old.parquet", unproved=True),
        [c for c in frame if c not in manifest.LATER_FACTS],
    )
    pd.testing.assert_frame_equal(old[known], frame[known])
    assert old[sorted(manifest.LATER_FACTS)].isna().all(axis=None)


def test_a_manifest_of_an_earlier_version_keeps_its_shards_and_is_made_again_before_it_is_read(frame, tmp_path):
    path = tmp_path / "set" / "m.parquet"
    path.parent.mkdir()
    pq.write_table(manifest.to_table(frame), path)
    assert read_shards(path)["5"] == 2 and shard_digests(path) and not read_looked_at(path).proved
    with pytest.raises(DatasetError, match=r"no digest of itself.*run `python -m pipeline manifest set`, which keeps"):
        read_manifest(path)
    assert write_manifest(read_manifest(path, unproved=True), path), "though its content is the same"
    assert read_looked_at(path).proved and not write_manifest(read_manifest(path), path)


def test_no_frame_is_read_by_facts_of_an_earlier_version(frame):
    frame["grid"] = None
    with pytest.raises(DatasetError, match=r"the facts of 1\.webm are of an earlier version.*make the manifest again"):
        shard_samples(frame, 0)


def test_classes_are_the_labels_that_occur_sorted(frame):
    assert classes(frame) == ["Holding something", "Moving something up"]


def test_a_shards_samples_keep_their_order_and_a_failed_one_its_place(frame):
    good, bad = shard_samples(frame, 0)
    assert (good.sample, good.path, good.status, good.digest) == ("1", "1.webm", "ok", frame["digest"][0])
    assert good.facts is not None
    assert {name: type(value) for name, value in good.facts.items()} == {
        "duration": float, "frames": int, "fps": float, "width": int, "height": int,
        "codec": str, "rotation": int, "edit_list": bool, "mirrored": bool,
        "video_streams": int, "grid": str, "key_frames": str, "decord_doubt": str,
    }  # fmt: skip
    assert bad == ShardSample("2", "", "2.webm", None, "missing")
    assert [row.sample for row in shard_samples(frame, 2)] == ["5"]


def test_the_shards_are_read_back_without_the_rest(frame, tmp_path):
    write_manifest(frame, tmp_path / "m.parquet")
    assert read_shards(tmp_path / "m.parquet") == {"1": 0, "2": 0, "3": 1, "4": 1, "5": 2}


@pytest.mark.parametrize(
    ("column", "value", "changes"),
    [
        ("digest", "0" * 64, True),
        ("status", "short", True),
        ("sample", "30", True),
        ("label", "Moving something up", False),
        ("mtime_ns", 5, False),
        ("split", "test", False),
    ],
)
def test_a_shards_digest_changes_with_what_the_shard_must_hold_and_with_nothing_else(
    frame, tmp_path, column, value, changes
):
    path = tmp_path / "m.parquet"
    write_manifest(frame, path)
    before = shard_digests(path)
    assert list(before) == [0, 1, 2]
    assert len(set(before.values())) == 3
    frame.loc[2, column] = value
    write_manifest(frame, path)
    after = shard_digests(path)
    assert {shard for shard in before if before[shard] != after[shard]} == ({1} if changes else set())
    assert shard_digest(path, 1) == after[1]


def test_the_order_within_a_shard_is_part_of_its_digest(frame, tmp_path):
    write_manifest(frame, tmp_path / "a.parquet")
    swapped = frame.iloc[[1, 0, 2, 3, 4]].reset_index(drop=True)
    swapped.attrs = frame.attrs
    write_manifest(swapped, tmp_path / "b.parquet")
    a, b = shard_digests(tmp_path / "a.parquet"), shard_digests(tmp_path / "b.parquet")
    assert a[0] != b[0]
    assert a[1] == b[1]


def test_a_shard_that_is_not_there_is_an_error_that_says_which_are(frame, tmp_path):
    write_manifest(frame, tmp_path / "m.parquet")
    with pytest.raises(NoSuchShard, match=r"^shard 7 is not in .*m\.parquet, which has 3 shards \(0 to 2\)") as error:
        shard_digest(tmp_path / "m.parquet", 7)
    assert isinstance(error.value, KeyError)
    with pytest.raises(NoSuchShard, match="shard 7"):
        shard_samples(frame, 7)


def test_the_version_of_facts_is_bumped_when_probe_changes():
    """A change that leaves every fact and verdict as it was may keep the version: then only the digest below moves."""
    names = ("facts", "probing", "pictures", "timing", "landings", "by_decord")
    sources = code_digest("limits", *(f"video/{name}" for name in names))
    assert (manifest.FACTS_VERSION, sources[:16]) == (4, "df179586d99c1e70"), (
        "probe changed: if it can come to other facts or verdicts of a file, raise FACTS_VERSION in "
        f"pipeline/datasets/manifest.py; then pin {sources[:16]} here"
    )


@pytest.mark.slow
def test_the_digests_of_1726_shards_of_ssv2_take_seconds_and_change_one_at_a_time(tmp_path):
    write_annotations(tmp_path, OFFICIAL_COUNTS)
    frame = made_up_manifest(read_annotations(Dataset(layout="ssv2", root=str(tmp_path))), shard_size=128)
    path = tmp_path / "m.parquet"
    timings = {}
    for name, action in {
        "write": lambda: write_manifest(frame, path),
        "write again": lambda: write_manifest(frame, path),
        "read": lambda: read_manifest(path),
        "read_shards": lambda: read_shards(path),
        "1726 shard_digest": lambda: [shard_digest(path, shard) for shard in range(1726)],
    }.items():
        start = time.perf_counter()
        result = action()
        timings[name] = round(time.perf_counter() - start, 2)
    print(timings, f"{path.stat().st_size / 1e6:.1f} MB")
    frame.loc[200_000, "digest"] = "0" * 64
    write_manifest(frame, path)
    changed = [shard for shard in range(1726) if shard_digest(path, shard) != result[shard]]
    assert changed == [200_000 // 128]


def test_a_shards_digest_changes_with_a_map_for_stores_of_maps_alone(frame, tmp_path):
    path = tmp_path / "m.parquet"
    write_manifest(frame, path)
    before = shard_digests(path)
    content = [["1", frame["digest"][0], "ok"], ["2", "", "missing"]]
    text = "\n".join(map(json.dumps, content))
    assert before[0] == hashlib.sha256(text.encode()).hexdigest()
    frame.loc[2, ["map", "map_digest"]] = ["maps/3.npz", "a" * 64]
    write_manifest(frame, path)
    first = shard_digests(path, "maps")
    frame.loc[2, "map_digest"] = ""
    write_manifest(frame, path)
    second = shard_digests(path, "maps")
    assert [shard for shard in first if first[shard] != second[shard]] == [1]
    assert shard_digests(path) == before
    row = shard_samples(frame, 1)[0]
    assert (row.map, row.map_digest) == ("maps/3.npz", "")

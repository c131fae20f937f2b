"""`verify` finds every flipped bit, and goes on; `describe` says what is there."""

import json

import numpy as np
import pytest

from pipeline.config import file_digest
from pipeline.store import FeatureStore, StoreError, StoreMissing, describe, stores_below, verify
from pipeline.store.journal import guard


def findings(job):
    return [(found.shard, found.sample, found.field) for found in verify(job.base.parent)]


@pytest.fixture
def whole(job):
    job.run()
    return job


def test_a_sound_store_of_any_kind_has_no_finding(make_job, kind):
    job = make_job("feature", kind=kind)
    job.run()
    assert verify(job.base.parent) == []


def data_file(job, field):
    return next(path for path in (job.base.with_suffix(".zarr") / field / "c").rglob("0") if path.is_file())


def test_a_sound_store_has_no_finding_and_progress_is_told(whole):
    told = []
    assert verify(whole.base.parent, progress=lambda done, total: told.append((done, total))) == []
    assert told == [(1, 1)]


def test_every_flipped_bit_anywhere_is_found(whole, flip):
    rng = np.random.default_rng(0)
    for name, content in whole.files().items():
        for _ in range(12):
            where, bit = int(rng.integers(len(content))), int(rng.integers(8))
            flip(whole.base.parent / name, where, bit)
            assert len(verify(whole.base.parent)) >= 1, f"{name}, byte {where}, bit {bit}"
            (whole.base.parent / name).write_bytes(content)
    assert verify(whole.base.parent) == []


def test_damage_is_told_by_sample_and_field(whole, flip):
    flip(data_file(whole, "tokens"), 34 * 3 + 7)
    flip(data_file(whole, "tokens"), 34 * 12 + 32)  # in the checksum stored beside the data
    flip(data_file(whole, "cls"), -9)
    flip(whole.base.with_suffix(".journal"), -30)
    found = verify(whole.base.parent)
    assert [(finding.sample, finding.field) for finding in found] == [
        (None, None), (None, "cls"), ("v3", "tokens"), ("v13", "tokens"),
    ]  # fmt: skip
    assert "journal, line 5" in found[0].what
    assert "index" in found[1].what
    assert "crc32c" in found[2].what
    assert "stored beside the data" in found[3].what


def test_a_manifest_of_the_first_release_with_digests_of_data_files_is_checked_too(whole, flip):
    path, data = whole.base.with_suffix(".json"), data_file(whole, "tokens")
    manifest = json.loads(path.read_text())
    del manifest["crc32c"]
    manifest["files"][str(data.relative_to(whole.base.parent))] = file_digest(data)
    path.write_bytes(guard(manifest)[0] + b"\n")
    assert verify(whole.base.parent) == []
    flip(data, 34 * 3 + 7)
    assert findings(whole) == [("shard-000", "v3", "tokens")]


def test_a_journal_that_lost_a_line_is_found(whole):
    journal = whole.base.with_suffix(".journal")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:2] + lines[3:]))
    assert "line 3" in verify(whole.base.parent)[0].what
    journal.write_bytes(b"".join(lines[:-1]))
    assert findings(whole) == [("shard-000", "v12", None), ("shard-000", "v13", None)]


def test_missing_files_and_unfinished_shards_are_findings(whole, make_job):
    other = make_job(whole.base.parent.name)
    other.base = whole.base.with_name("shard-001")
    other.run()
    other.base.with_suffix(".json").unlink()
    (whole.base.with_suffix(".zarr") / "zarr.json").unlink()
    data_file(whole, "cls").unlink()
    whole.base.with_suffix(".journal").unlink()
    text = "\n".join(f"{finding.shard} {finding.what}" for finding in verify(whole.base.parent))
    assert "shard-001 has no manifest" in text
    for name in ("zarr.json is gone", "cls/c/0/0 is gone", "shard-000.journal is gone"):
        assert name in text
    with pytest.raises(StoreMissing):
        verify(whole.base.parent / "nowhere")


def test_a_whole_shard_that_is_gone_is_found_by_its_number_or_by_the_numbers_that_are_expected(whole, make_job):
    store = whole.base.parent
    other = make_job(store.name)
    other.base = whole.base.with_name("shard-002")
    other.run()
    assert [(found.shard, found.what) for found in verify(store)] == [
        ("shard-001", "is not there, though later ones are there: run `extract`, or `dvc pull`")
    ]
    assert [found.shard for found in verify(store, expected={0, 2})] == []
    assert [found.shard for found in verify(store, expected={0, 2, 3})] == ["shard-003"]
    assert [found.shard for found in verify(store.with_name("nowhere"), expected={0})] == ["shard-000"]


def test_files_that_belong_to_no_shard_are_named(whole, make_job):
    store = whole.base.parent
    other = make_job(store.name)
    other.base = whole.base.with_name("shard-001")
    other.run()
    other.base.with_suffix(".json").unlink()  # unfinished: what lies beside it may be its writer's
    for name in ("notes.txt", "shard-000.donor.journal", "shard-000.h5.partial", "shard-000.zarr/cls/c/0/1",
                 "shard-001.donor.journal"):  # fmt: skip
        (store / name).write_bytes(b"x")
    found = {finding.shard: finding.what for finding in verify(store)}
    assert "unfinished" in found.pop("shard-001")
    foreign = ["notes.txt", "shard-000.donor.journal", "shard-000.h5.partial", "shard-000.zarr/cls/c/0/1"]
    assert sorted(found) == foreign
    assert set(found.values()) == {"belongs to no shard; move it out, or delete it"}


def test_a_shard_in_the_folder_of_another_key_is_refused_by_every_reader(make_job):
    job = make_job("feature-0123456789")
    job.run()
    said = "its key is abc, and its folder is named by 0123456789"
    (found,) = verify(job.base.parent)
    assert said in found.what
    for read in (describe, lambda store: FeatureStore(store).samples):
        with pytest.raises(StoreError, match=said):
            read(job.base.parent)


def test_a_data_set_s_folder_holds_its_stores(whole, make_job):
    root = whole.base.parents[1]
    make_job(".pruned-feature-abc").run()
    assert stores_below(whole.base.parent) == [whole.base.parent]
    assert stores_below(root) == [whole.base.parent]
    with pytest.raises(StoreMissing, match="is no store and holds none"):
        stores_below(root / "nowhere")


def test_one_broken_manifest_does_not_hide_the_next_shard(whole, make_job, flip):
    other = make_job(whole.base.parent.name)
    other.base = whole.base.with_name("shard-001")
    other.run()
    flip(whole.base.with_suffix(".json"), 100)
    flip(data_file(other, "cls"), 3)
    assert findings(whole) == [("shard-000", None, None), ("shard-001", "v0", "cls")]


def test_describe_says_what_a_store_holds(whole):
    about = describe(whole.base.parent)
    assert about["key"] == "abc"
    assert about["provenance"] == {"key": "abc", "backbone": "none"}
    assert about["fields"]["tokens"] == {"shape": [3, 5], "dtype": "float16"}
    assert (about["shards"], about["unfinished"]) == (1, [])
    assert about["counts"] == {"ok": 13, "failed": 1}
    assert about["failures"] == {"v5": "short: 3 of 30 frames"}
    assert about["bytes"] == sum(map(len, whole.files().values()))

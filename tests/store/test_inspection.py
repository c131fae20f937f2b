"""`verify` finds every flipped bit, and goes on; `describe` says what is there."""

import json

import numpy as np
import pytest

from pipeline.config import file_digest
from pipeline.store import StoreMissing, describe, verify
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

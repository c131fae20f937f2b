"""Claims about files that may have been replaced since their manifest: by size, time and, where these differ, bytes."""

import hashlib
import os

import pytest

from pipeline.datasets import ShardSample, changed, unchanged
from pipeline.video import VideoError


@pytest.fixture
def known(tmp_path):
    """A sample's row and its file, (folder, row, path)."""
    path = tmp_path / "a.webm"
    path.write_bytes(b"as the manifest saw it")
    found = path.stat()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    row = ShardSample("a", digest, "a.webm", None, "ok", bytes=found.st_size, mtime_ns=found.st_mtime_ns)
    return tmp_path, row, path


def at(path, mtime_ns):
    os.utime(path, ns=(mtime_ns, mtime_ns))


def test_a_file_of_the_size_and_time_that_are_known_is_not_read(known, monkeypatch):
    folder, row, path = known
    monkeypatch.setattr("pipeline.datasets.digests.file_digest", lambda path: pytest.fail("it was hashed"))
    assert unchanged(folder, row) == path


def test_a_copy_with_another_time_costs_a_hash_and_is_the_same_file(known):
    folder, row, path = known
    at(path, row.mtime_ns + 1)
    assert unchanged(folder, row) == path


def test_other_bytes_of_equal_size_are_told_by_their_digest(known):
    folder, row, path = known
    path.write_bytes(b"as the manifest SAW it")
    at(path, row.mtime_ns + 1)
    with pytest.raises(VideoError) as told:
        unchanged(folder, row)
    assert told.value.reason == "replaced"
    now = hashlib.sha256(path.read_bytes()).hexdigest()
    assert str(told.value) == (
        f"{path}: replaced: was replaced since the manifest was made (sha256 {row.digest[:12]} then, {now[:12]} now); "
        "make the manifest again"
    )


def test_a_file_of_another_size_is_told_without_reading_it(known, monkeypatch):
    folder, row, path = known
    path.write_bytes(b"longer than the manifest saw it")
    monkeypatch.setattr("pipeline.datasets.digests.file_digest", lambda path: pytest.fail("it was hashed"))
    with pytest.raises(VideoError, match="22 bytes then, 31 now"):
        unchanged(folder, row)


def test_where_the_manifest_keeps_no_size_and_no_time_the_bytes_decide(known):
    _, row, path = known
    assert changed(path, row.digest) == ""
    path.write_bytes(b"as the manifest SAW it")
    assert "was replaced" in changed(path, row.digest)


def test_what_has_no_digest_or_is_gone_is_its_reader_s_to_tell(known):
    folder, row, path = known
    assert changed(path, "") == ""
    path.unlink()
    assert unchanged(folder, row) == path

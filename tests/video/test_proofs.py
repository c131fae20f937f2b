"""Proofs are kept line by line, whatever ends the job that writes them."""

import pytest

from pipeline.video import probe, proofs
from pipeline.video.proofs import identity, keep, recalled


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(proofs, "_read", {})
    return tmp_path / "cache/permafrost/proofs/lib-1.txt"


def again(monkeypatch):
    """As another process begins."""
    monkeypatch.setattr(proofs, "_read", {})


def test_a_proof_and_a_doubt_are_recalled_by_another_process(monkeypatch):
    keep("lib 1", "a" * 32, "")
    keep("lib 1", "b" * 32, "another picture\nthan frame 3")
    again(monkeypatch)
    assert recalled("lib 1", "a" * 32) == "" and recalled("lib 1", "b" * 32) == "another picture than frame 3"
    assert recalled("lib 1", "c" * 32) is None and recalled("lib 2", "a" * 32) is None


@pytest.mark.parametrize("left", range(1, 40))
def test_a_line_that_was_half_written_is_no_proof_and_spoils_none_after_it(cache, monkeypatch, left):
    keep("lib 1", "a" * 32, "")
    cache.write_bytes(cache.read_bytes()[:left])
    keep("lib 1", "b" * 32, "")
    again(monkeypatch)
    assert recalled("lib 1", "b" * 32) == ""
    assert recalled("lib 1", "a" * 32) == ("" if left >= 39 else None)


def test_a_cache_that_cannot_be_written_costs_no_job(cache, monkeypatch, tmp_path):
    cache.parent.parent.mkdir(parents=True)
    cache.parent.write_text("no folder")
    keep("lib 1", "a" * 32, "")
    assert recalled("lib 1", "a" * 32) == ""
    again(monkeypatch)
    assert recalled("lib 1", "a" * 32) is None
    monkeypatch.setattr(proofs, "user_cache", lambda: None)
    keep("lib 1", "a" * 32, "")
    assert recalled("lib 1", "a" * 32) is None


def test_a_file_is_told_by_its_size_its_time_and_its_pictures(made, tmp_path):
    import os
    from dataclasses import replace

    path = tmp_path / "a.mp4"
    path.write_bytes((made / "h264.mp4").read_bytes())
    facts = probe(path)
    first = identity(path, facts)
    assert identity(path, replace(facts, start=0.5, duration=1.0)) == first
    assert identity(path, replace(facts, key_frames="0:0:ff")) != first
    os.utime(path, ns=(1, 1))
    assert identity(path, facts) != first

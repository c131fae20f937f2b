"""The soak command: 0 of everything for the writer as it is, and not for one that is broken."""

import logging
import os

import pytest

from benchmarks import soak
from pipeline.store.chunks import ChunkFile
from pipeline.store.journal import JournalFile


@pytest.fixture(autouse=True)
def warnings_again():
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.sweep
@pytest.mark.slow
def test_kills_at_random_moments_break_nothing(capsys):
    found = soak.run(kills=40, seed=1, folder="")
    assert found["kills"] >= 40
    assert {found[what] for what in ("torn", "lost", "duplicates")} == {0}
    assert all(count["kills"] for count in found["formats"].values())


@pytest.mark.sweep
@pytest.mark.slow
def test_it_notices_a_writer_that_does_not_cut_off_what_was_torn(monkeypatch, capfd):
    monkeypatch.setattr(soak, "FORMATS", {"zarr float16": soak.FORMATS["zarr float16"]})
    monkeypatch.setattr(ChunkFile, "keep", lambda self, length: os.lseek(self.descriptor, 0, os.SEEK_END))
    assert soak.run(kills=40, seed=1, folder="")["torn"] > 0


@pytest.mark.sweep
@pytest.mark.slow
def test_it_notices_a_writer_that_confirms_before_the_journal_does(monkeypatch, capfd):
    real, late = JournalFile.append, []

    def one_behind(self, document):
        late.append(document)
        if len(late) > 1 or "batch" not in document:
            real(self, late.pop(0))

    monkeypatch.setattr(JournalFile, "append", one_behind)
    monkeypatch.setattr(JournalFile, "close", lambda self: [real(self, late.pop(0)) for _ in late[:1]])
    assert soak.run(kills=20, seed=1, folder="")["lost"] > 0

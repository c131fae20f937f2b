"""Claims about decode processes: order, bounded memory, errors that arrive."""

import os
import signal

import pytest
import torch

from pipeline.extraction import ExtractionError, stream
from pipeline.extraction.stream import MOST_AHEAD, Stream, messages_ahead
from pipeline.memory import DECODED_AHEAD, Shortage


class Numbers:
    """Job n gives n + 1 messages."""

    message_bytes = 1 << 20

    def __init__(self, jobs, at=None, act=None):
        self.jobs, self.at, self.act = jobs, at, act

    def __len__(self):
        return self.jobs

    def messages(self, job, ring=None):
        for number in range(job + 1):
            if job == self.at and self.act is not None:
                self.act()
            yield job, number, torch.full((2,), job)

    def describe(self, job):
        return f"sample {job}"


@pytest.mark.parametrize("workers", [0, 1, 2, 9])
def test_messages_come_in_the_order_of_the_jobs_whatever_the_processes(workers):
    with Stream([Numbers(7)], workers) as messages:
        got = [(one[0], one[1], int(one[2].sum())) for _, one in messages if one]
    assert got == [(job, number, 2 * job) for job in range(7) for number in range(job + 1)]


def test_an_error_in_a_decode_process_arrives_as_what_it_was():
    def fails():
        raise KeyError("of this kind")

    with pytest.raises(KeyError, match="of this kind"), Stream([Numbers(4, 2, fails)], 2) as messages:
        list(messages)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torch's signal handler, anywhere
def test_a_decode_process_that_dies_is_told_with_the_sample_and_the_remedy():
    source = Numbers(4, 2, lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ExtractionError, match=r"at sample \d.*decode_workers: 0"), Stream([source], 2) as messages:
        list(messages)


def test_a_death_is_told_as_such_where_its_signal_made_something_else_fail():
    with pytest.raises(ExtractionError, match=r"at the first sample .*decode_workers: 0"), Stream([Numbers(4)], 2):
        try:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
        except RuntimeError:
            {}["the thread that was being started"]


def test_what_waits_is_bounded_in_bytes(monkeypatch):
    def free(size):
        monkeypatch.setattr(stream, "shared_memory_left", lambda folder: size)

    free(1 << 40)
    assert messages_ahead(16 << 20, 4) * 4 * (16 << 20) <= DECODED_AHEAD
    assert messages_ahead(1, 1) == MOST_AHEAD and messages_ahead(DECODED_AHEAD, 4) == 1
    free(64 << 20)  # what Docker gives
    assert messages_ahead(8 << 20, 2) == 2
    with pytest.raises(Shortage, match=r"64 MB left.*--shm-size.*decode_workers"):
        messages_ahead(16 << 20, 4)

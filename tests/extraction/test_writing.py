"""Claims about the thread that writes: in order, not far behind, nothing after what failed."""

import threading

import pytest

from pipeline.extraction.writing import TASKS_AHEAD, Writes


def test_tasks_are_done_in_order_and_never_far_behind():
    done, gate = [], threading.Event()
    with Writes() as writes:
        writes(gate.wait)
        for number in range(TASKS_AHEAD - 1):
            writes(lambda number=number: done.append(number))
        assert not done
        gate.set()
        writes(lambda: done.append("last"))
        writes.end()
    assert done == [*range(TASKS_AHEAD - 1), "last"]


def test_after_a_task_that_failed_nothing_is_written():
    done, gate = [], threading.Event()

    def fails():
        gate.wait()
        raise KeyError("of this kind")

    with pytest.raises(KeyError, match="of this kind"), Writes() as writes:
        writes(fails)
        writes(lambda: done.append("next"))
        gate.set()
        writes.end()
    assert not done

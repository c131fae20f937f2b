"""Claims about the ring: batches as they were written, places that wait for each other, bounded memory."""

import os
import pickle
import threading
from multiprocessing.reduction import ForkingPickler
from types import SimpleNamespace

import pytest
import torch

from pipeline.extraction import ExtractionError, ring
from pipeline.extraction.ring import DECODED_AHEAD, LEAST, Ring, Slots, places_for
from pipeline.extraction.stream import Stream
from pipeline.memory import Shortage

PAIRS, ONES = Slots((2,), torch.float32, 3), Slots((1,), torch.uint8, 2)


class Counting:
    """Job n writes batch n of both lanes, and says so."""

    message_bytes = 1

    def __init__(self, jobs):
        self.jobs = jobs

    def __len__(self):
        return self.jobs

    def messages(self, job, ring):
        ring.room(0, job).fill_(job)
        ring.room(1, job).fill_(2 * job)
        yield job

    def describe(self, job):
        return f"batch {job}"


@pytest.fixture
def opened():
    made = Ring([PAIRS, ONES], run=1, pinned=False)
    made.open(0)
    yield made
    made.close()


@pytest.mark.parametrize("workers", [0, 3])
def test_every_batch_is_read_as_it_was_written_however_often_the_ring_goes_round(workers, monkeypatch):
    monkeypatch.setattr(ring, "DECODED_AHEAD", 1)
    made, seen, storages = Ring([PAIRS, ONES], run=1, pinned=False), [], set()
    with Stream([Counting(11), Counting(0)], workers, made) as messages:
        for _, number in messages:
            if number is None:
                continue
            assert made.places == LEAST
            seen.append([of.unique().tolist() for of in (made.batch(0, number), made.batch(1, number))])
            storages |= {made.batch(lane, number).untyped_storage().data_ptr() for lane in (0, 1)}
            made.release(0)
            made.release(1)
    assert seen == [[[number], [2 * number]] for number in range(11)]
    assert len(storages) == 1, "a batch is a view of the ring"


def test_a_place_is_written_to_again_only_once_its_batch_is_released(opened):
    taken = []
    thread = threading.Thread(target=lambda: taken.append(opened.room(1, LEAST).data_ptr()))
    thread.start()
    thread.join(0.05)
    assert not taken
    opened.release(0)
    thread.join(0.05)
    assert not taken, "another lane's"
    opened.release(1)
    thread.join(10)
    assert taken == [opened.batch(1, 0).data_ptr()]


def test_a_place_that_a_device_copies_from_is_given_back_once_it_was_copied(opened):
    waits = []

    def event(name, passed):
        return SimpleNamespace(query=lambda: passed, synchronize=lambda: waits.append(name))

    opened.release(0, event("first", False))
    opened.look()
    assert opened._released[0] == 0 and not waits
    opened.release(0, event("second", False))
    assert opened._released[0] == 1 and waits == ["first"], "one place is always there to be filled"
    opened.release(0)
    assert opened._released[0] == 3 and waits == ["first", "second"]
    opened.release(0, event("third", True))
    assert opened._released[0] == 4, "it had passed"


def test_a_process_that_waits_ends_with_the_ring_and_with_the_process_that_takes(opened, monkeypatch):
    monkeypatch.setattr(opened, "_taker", 1 if os.getppid() != 1 else 2)
    with pytest.raises(ExtractionError, match="has ended"):
        opened.room(0, LEAST)
    monkeypatch.undo()
    opened._released[-1] = 1
    with pytest.raises(ExtractionError, match="has ended"):
        opened.room(0, LEAST)


def test_a_ring_that_is_handed_to_a_process_which_is_no_fork_is_the_same_memory():
    made = Ring([PAIRS, ONES], run=1, pinned=False)
    made.open(1)
    other = pickle.loads(ForkingPickler.dumps(made))
    other.room(1, 0).fill_(5)
    assert made.batch(1, 0).unique().tolist() == [5] and other._taker == os.getppid()
    made.release(1)
    assert other._released.tolist() == [0, 1, 0]


def test_memory_is_bounded_and_asked_for_before_anything_starts(monkeypatch):
    def free(size):
        monkeypatch.setattr(ring, "shared_memory_left", lambda folder: size)

    large = [Slots((4 << 20,), torch.uint8, 2)]  # 8 MB a batch
    free(1 << 40)
    assert places_for(large, run=4, workers=12) * (8 << 20) <= DECODED_AHEAD
    assert places_for(large, run=1, workers=2) == LEAST + 2, "no more than the processes can fill"
    assert places_for([Slots((1 << 30,), torch.uint8, 1)], run=1, workers=2) == LEAST
    free(64 << 20)  # what Docker gives
    assert places_for(large, run=4, workers=2) == 4
    with pytest.raises(Shortage, match=r"64 MB left.*--shm-size.*smaller batch.*decode_workers"):
        places_for([Slots((4 << 20,), torch.uint8, 8)], run=1, workers=4)
    assert places_for([Slots((1 << 30,), torch.uint8, 8)], run=1, workers=0) == LEAST, "its own memory"


def test_what_the_system_does_not_give_is_an_error_with_the_remedy(monkeypatch):
    def full(nbytes):
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", full)
    with pytest.raises(Shortage, match=r"No space left.*--shm-size"):
        Ring([PAIRS], 1, pinned=False).open(2)


def test_memory_that_cuda_cannot_pin_is_an_error_with_the_remedy(monkeypatch):
    monkeypatch.setattr(torch.cuda, "cudart", lambda: SimpleNamespace(cudaHostRegister=lambda *of: 2))
    with pytest.raises(Shortage, match=r"cannot pin .*ulimit -l"):
        Ring([PAIRS], 1, pinned=True).open(0)

"""Claims about the way to a device and back."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from benchmarks._pretended import Pretended
from pipeline.transfers import Sending, returned, uploaded


class Stream:
    """What torch.cuda.Stream does, in words."""

    def __init__(self, said, name):
        self.said, self.name = said, name

    def record_event(self):
        return Event(self.said, f"{self.name} {sum(line.startswith('copied') for line in self.said)}")

    def wait_event(self, event):
        self.said.append(f"{self.name} waits for {event.of}")

    def wait_stream(self, other):
        self.said.append(f"{self.name} waits for {other.name}")


class Event:
    def __init__(self, said, of):
        self.said, self.of = said, of
        said.append(f"copied by {of}")

    def synchronize(self):
        self.said.append(f"the host waits for {self.of}")


@pytest.fixture
def pretended(monkeypatch):
    """Tensors that say they are on a GPU, streams that say what they do; of the waits of the host, the list."""
    said, names = [], iter(("copies", "others"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: Stream(said, next(names)))
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Stream(said, "computing"))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: said.append(f"{stream.name} holds"))
    with Pretended() as pretended:
        yield said, pretended.waits


def on_host(values) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values))


def test_a_batch_is_copied_while_the_one_before_is_computed_with_and_its_rows_stay(pretended):
    said, waits = pretended

    def read():
        for number in range(3):
            said.append(f"read {number}")
            yield {"x": on_host([float(number)]), "row": on_host([number])}

    for number, batch in enumerate(uploaded(read(), torch.device("cuda", 0))):
        said.append(f"given {number}")
        assert batch["x"].device.type == "cuda" and batch["row"].device.type == "cpu"
        assert batch["row"].tolist() == [number]
    assert said.count("computing holds") == 3
    order = [line for line in said if not line.startswith("copied") and not line.endswith("holds")]
    assert order == [
        "read 0", "read 1", "computing waits for copies 0", "given 0",
        "read 2", "computing waits for copies 1", "given 1", "computing waits for copies 2", "given 2",
    ]  # fmt: skip
    assert waits == []


def test_answers_are_copied_back_while_the_next_are_computed_and_the_host_waits_once_for_each(pretended):
    said, waits = pretended

    def computed():
        for number in range(4):
            said.append(f"computed {number}")
            half = torch.full((2,), number, dtype=torch.bfloat16, device=torch.device("cuda", 0))
            yield {"half": half, "row": on_host([number])}

    for number, found in enumerate(returned(computed())):
        said.append(f"given {number}")
        assert found["half"].dtype == np.float32 and (found["half"] == number).all() and found["row"] == [number]
    order = [line for line in said if line.startswith(("computed", "given", "the host"))]
    assert order == [
        "computed 0", "computed 1", "computed 2", "the host waits for copies 0", "given 0", "computed 3",
        *(line for number in (1, 2, 3) for line in (f"the host waits for copies {number}", f"given {number}")),
    ]  # fmt: skip
    assert waits == [] and said.count("copies waits for computing") == said.count("copies holds") == 4


def test_on_the_cpu_answers_come_one_by_one_as_they_are():
    asked = []
    found = returned({"x": of} for of in map(lambda n: asked.append(n) or torch.tensor([n / 3]), range(3)))
    assert next(found)["x"][0] == np.float32(0) and asked == [0]
    assert next(found)["x"][0] == np.float32(1 / 3) and asked == [0, 1]
    batch = {"x": torch.ones(2), "row": torch.arange(2)}
    ((of, rows),) = (there.values() for there in uploaded([batch], torch.device("cpu")))
    assert of is batch["x"] and rows is batch["row"]


def test_what_is_sent_in_the_midst_of_a_step_is_not_waited_for(pretended):
    _, waits = pretended
    there = torch.device("cuda", 0)
    on_host([1.0]).to(there)
    assert waits == ["to"]
    with Sending():
        found = on_host([1.0]).to(there)
    assert waits == ["to"] and found.device.type == "cuda"

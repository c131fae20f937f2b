"""Small real data sets that tests make themselves: encoded clips in Something-Something-V2's layout."""

import argparse
import atexit
import gc
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = "PERMAFROST_TESTS"  # names a folder that all processes of a session share
# Files of minutes, the longest first: workers that take files in this order end together. The first one makes what
# other tests of the workflow share, the next ones need none of it.
LONGEST = [
    "workflow/test_main_job",
    "workflow/test_dvc",
    "store/test_kill",
    "explanation/test_explanation",
    "workflow/test_power",
    "workflow/test_caches",
    "workflow/test_slurm",
    "workflow/test_together",
    "training/test_processes",
    "workflow/test_replaced",
    "prediction/test_videos",
    "evaluation/test_segmentation",
    "config/test_any_params",
    "training/test_trainer",
    "store/test_soak",
    "video/test_same_frames",
    "extraction/test_fuzz",
    "prediction/test_segmentation",
    "prediction/test_diagnoses",
    "reports/test_page_browser",
    "workflow/test_plan",
    "workflow/test_page",
]


def pytest_addoption(parser):
    # The tests of tests/gpu on the CPU, so that none is code that nobody ran: for whoever edits them.
    parser.addoption("--gpu-device", default="cuda", choices=["cuda", "cpu"], help=argparse.SUPPRESS)


def pytest_configure(config):
    config.pluginmanager.register(FailuresAtOnce(config), "failures-at-once")
    config.pluginmanager.register(ExamplesAlone(), "examples-alone")


def pytest_collection(session):
    gc.disable()  # all that is imported and collected stays


def pytest_collection_finish(session):
    gc.freeze()
    gc.enable()


def pytest_sessionstart(session):
    # Before whatever else is to be called at the end, and so the last of it.
    atexit.register(_end_at_once, session, os.getpid())
    if SHARED not in os.environ:  # in the first process of a session, whose workers are told by it
        os.environ[SHARED] = folder = tempfile.mkdtemp(prefix="tests-")
        atexit.register(_remove, folder, os.getpid())


def _remove(folder: str, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(folder)


def _end_at_once(session: pytest.Session, process: int) -> None:
    """Ends this process, no fork of it: Python's own end would look through all libraries for garbage for 4 s."""
    if os.getpid() == process and not hasattr(sys, "last_value"):  # an error at the end, whose exit status is another
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(session.exitstatus))


def pytest_collection_modifyitems(items):
    order = {f"{ROOT}/tests/{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(str(item.path), len(order)))


class ExamplesAlone:
    """Only files with examples are read for them: to import the package at once, or search all tests, takes seconds."""

    @pytest.hookimpl(wrapper=True)
    def pytest_collect_file(self, file_path: Path) -> Iterator[None]:
        found = yield
        of_tests = [one for one in found if type(one) is pytest.Module]
        return found if found and ">>>" in file_path.read_text(encoding="utf-8") else of_tests


class FailuresAtOnce:
    """Says what failed when it fails: a run that is cut off says nothing at its end."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal:
            terminal.ensure_newline()
            terminal.write_line(f"FAILED {report.when} {report.nodeid}\n{report.longreprtext}", red=True)


@pytest.fixture(autouse=True)
def _as_it_was():
    """Each test computes in one thread, and leaves this process no greedier than it found it."""
    import torch  # here: the process that hands tests to workers computes nothing, and they start when it has read this

    torch.set_num_threads(1)
    yield
    assert os.sched_getscheduler(0) == os.SCHED_OTHER, "a library made this a real-time process, which starves others"


def write_clip(path: Path, seed: int, frames: int = 36, size: int = 64, fps: int = 12) -> None:
    """A VP9 clip of a moving gradient with a little noise; its content follows from the seed."""
    import av
    import numpy as np

    rng = np.random.default_rng(seed)
    base = rng.integers(0, 200, 3)
    ramp = np.linspace(0, 55, size)[None, :, None] + base
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=fps, options={"cpu-used": "8", "deadline": "realtime"})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for step in range(frames):
            picture = np.roll(np.broadcast_to(ramp, (size, size, 3)), step * (1 + seed % 3), axis=1)
            picture = np.clip(picture + rng.normal(0, 3, (size, size, 1)), 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())


def write_ssv2(root: Path, counts: dict[str, int], templates: int = 3) -> Path:
    """A small data set in Something-Something-V2's layout."""
    root.mkdir(parents=True, exist_ok=True)
    names = [f"Moving [something] in way {i}" for i in range(templates)]
    labels = {name.replace("[something]", "something"): str(i) for i, name in enumerate(names)}
    (root / "labels.json").write_text(json.dumps(labels))
    number = 0
    for split in ("train", "validation", "test"):
        entries = []
        for i in range(counts.get(split, 0)):
            number += 1
            write_clip(root / f"{number}.webm", number)
            name = names[i % templates]
            labelled = {"label": name.replace("[something]", "a cup"), "template": name, "placeholders": ["a cup"]}
            entries.append({"id": str(number), **(labelled if split != "test" else {})})
        (root / f"{split}.json").write_text(json.dumps(entries))
    return root


@pytest.fixture(scope="session")
def small_ssv2(tmp_path_factory) -> Path:
    """24 + 9 + 3 clips of 36 frames."""
    return write_ssv2(tmp_path_factory.mktemp("small") / "ssv2", {"train": 24, "validation": 9, "test": 3})

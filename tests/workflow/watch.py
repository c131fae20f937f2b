"""Looks at this machine's processes while a workflow runs: which job has which GPU."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SECONDS_BETWEEN_LOOKS = 0.1
VERBS = ("extract", "derive", "train", "evaluate", "baselines")


@dataclass(frozen=True)
class Job:
    """A job's process. `place` is the directory that it runs in."""

    pid: int
    place: Path
    words: tuple[str, ...]
    gpus: tuple[str, ...]
    slurm: str  # the number of Slurm's job, if it is one

    @property
    def name(self) -> tuple[Path, tuple[str, ...]]:
        """The same for a job and the workers that it forked."""
        return self.place, self.words


@dataclass
class Seen:
    """What was seen: the jobs that had each GPU, and the GPUs that two jobs had at once."""

    users: dict[str, set] = field(default_factory=dict)
    shared: list[tuple[str, set]] = field(default_factory=list)
    most: int = 0  # jobs with a GPU at once


def jobs_below(*roots: Path) -> list[Job]:
    """The running `python -m pipeline VERB` of the directories below these, workers that they forked among them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode().split("\0")[:-1]
            if words[1:2] == ["-IS"]:
                del words[:2]  # a program of tests/workflow/forks.py, which lives and dies with the job that it called
            if words[1:3] != ["-m", "pipeline"] or not set(VERBS).intersection(words[3:]):
                continue
            place = (process / "cwd").resolve(strict=True)
            lines = (process / "environ").read_bytes().decode().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while it was looked at
        if any(place.is_relative_to(root) for root in roots):
            environment = dict(line.split("=", 1) for line in lines if "=" in line)
            gpus = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
            number = environment.get("SLURM_JOB_ID", "")
            found.append(Job(int(process.name), place, tuple(words), tuple(name for name in gpus if name), number))
    return found


@contextmanager
def watched(*roots: Path) -> Iterator[Seen]:
    """Looks at the jobs below these directories until the end of the block."""
    seen, ended = Seen(), threading.Event()

    def look() -> None:
        while not ended.wait(SECONDS_BETWEEN_LOOKS):
            holders: dict[str, set] = {}
            for job in jobs_below(*roots):
                for gpu in job.gpus:
                    holders.setdefault(gpu, set()).add(job.name)
            seen.shared += [(gpu, names) for gpu, names in holders.items() if len(names) > 1]
            seen.most = max(seen.most, len(holders))
            for gpu, names in holders.items():
                seen.users.setdefault(gpu, set()).update(names)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()

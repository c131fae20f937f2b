"""The programs of a project as calls: each is a fork of one process, which has imported the libraries already.

A call lives and dies with the program that asks for it, so that one of our jobs may be killed as a call. What the call
starts does not die with it, as it would in the process group or the Slurm job of the program: a Snakemake that is to be
killed with its jobs is the real program.
"""

import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TextIO

import pytest

from tests.conftest import SHARED

ROOT = Path(__file__).parents[2]
SLOW_TO_IMPORT = (
    "snakemake.cli",
    "pipeline.backbones.r3d18",
    "pipeline.backbones.towers",
    "pipeline.cli",
    "pipeline.explanation",
    "pipeline.extraction",
    "pipeline.extraction.cams",
    "pipeline.reports.page",
    "pipeline.toyworld",
    "pipeline.training.logs",
    "pipeline.training.trainer",
    "torch.distributed.run",
)
# Of a Snakemake whose jobs are calls of another process, and of DVC.
TO_PLAN = (
    "dvc.cli.parser",
    "dvc.repo",
    "pipeline.jobs.results",
    "pipeline.jobs.several",
    "pipeline.unlock",
    "snakemake.cli",
)
# What a call of `python -m` may run; it is the real Python for all else.
MODULES = ("pipeline", "tests.training.learnable", "torch.distributed.run")
# Takes the place of a program: asks for a fork in its place, lends it its streams, and ends as it ends.
PROGRAM = """\
#!{python} -IS
import os, sys
words = [word for word in sys.argv[1:] if word != "-u"]
if os.path.basename(sys.argv[0]) == "python" and not (words[:1] == ["-m"] and words[1] in {modules!r}):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
import json, socket
asked = json.dumps([sys.argv[0], words, os.getcwd(), dict(os.environ)]).encode()
line = socket.socket(socket.AF_UNIX)
line.connect({address!r})
socket.send_fds(line, [len(asked).to_bytes(8, "big")], [0, 1, 2])
line.sendall(asked)
ended = line.recv(1)
os._exit(ended[0] if ended else 1)
"""


@cache
def programs() -> Path:
    """Folders to put first on PATH, of which `jobs` has no Snakemake. They work until this process ends.

    All workers of a session share one: to import all that takes seconds.
    """
    folders = {"all": ("python", "snakemake"), "jobs": ("python",)}
    return _called(folders, SLOW_TO_IMPORT, ROOT, Path(os.environ[SHARED]))


@cache
def planners(code: Path) -> Path:
    """A folder to put before `jobs` on PATH: the Snakemake, and the DVC, of a project with its own copy of the code."""
    folder = Path(tempfile.mkdtemp(prefix="plans-", dir=os.environ[SHARED]))
    return _called({"plans": ("dvc", "snakemake")}, TO_PLAN, code, folder) / "plans"


def _called(folders: dict[str, tuple[str, ...]], modules: tuple[str, ...], code: Path, folder: Path) -> Path:
    """A folder of folders of programs, each a fork of a process that has imported these modules.

    Args:
        folders: name -> the programs in it.
        modules: names.
        code: where the package lies.
        folder: of them; whoever comes first starts that process, which ends after the last one.
    """
    with _locked(folder):
        if not (folder / "line").exists():
            _start(folders, modules, code, folder)
        # Open until this process ends, however it does: so the server knows for whom it works.
        os.open(folder / "alive", os.O_RDWR)
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _start(folders: dict[str, tuple[str, ...]], modules: tuple[str, ...], code: Path, folder: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address := f"{folder}/line")
    listener.listen(100)
    for place in (f"{name}/{program}" for name, inside in folders.items() for program in inside):
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_text(
            PROGRAM.format(python=sys.executable, modules=MODULES, address=address), encoding="utf-8"
        )
        (folder / place).chmod(0o755)
    os.mkfifo(folder / "alive")
    lent = (listener.fileno(), alive := os.open(folder / "alive", os.O_RDONLY | os.O_NONBLOCK))
    # A process of its own: a fork of the tests' would have their locks, their trackers of resources and their patches.
    command = [sys.executable, "-c", f"from tests.workflow.forks import serve; serve{(*lent, modules, str(folder))}"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (code, ROOT)))}
    # It lives on where this process ends and others work.
    subprocess.Popen(command, cwd=code, env=environment, pass_fds=lent, start_new_session=True)
    os.close(alive)
    listener.close()


def started(words: list[str], place: Path, environment: dict[str, str]) -> tuple[int, TextIO]:
    """`python -m pipeline` with these words as a fork of this process and in a session of its own, to be killed.

    Returns:
        Its number, and what it says.
    """
    for module in SLOW_TO_IMPORT:
        importlib.import_module(module)
    said, says = os.pipe()
    if (job := os.fork()) == 0:
        os.setsid()
        streams = [os.open(os.devnull, os.O_RDONLY), says, os.dup(says)]
        _become(sys.executable, ["-m", "pipeline", *words], str(place), environment, streams)
    os.close(says)
    return job, os.fdopen(said, encoding="utf-8")


def serve(listening: int, alive: int, modules: tuple[str, ...], folder: str) -> None:
    """Forks for each who asks, until nobody has the other end of `alive` open."""
    gc.disable()  # all that is imported stays
    for module in modules:
        importlib.import_module(module)
    if "pipeline.explanation" in modules:
        importlib.import_module("tests.flat").flatten(pytest.MonkeyPatch())
        # What is read of the code for a run's key, and what pydantic makes of the declared models, is there, too.
        _plan()
    gc.freeze()  # no fork looks through what was imported, which would copy it
    gc.enable()
    with socket.socket(fileno=listening) as listener:
        working: list[int] = []
        while alive not in (ready := select.select([listener, alive], [], [], 1.0)[0]) or not _ended(alive, folder):
            working = [child for child in working if os.waitpid(child, os.WNOHANG)[0] == 0]
            if listener not in ready:
                continue
            asking, _ = listener.accept()
            if (child := os.fork()) == 0:
                try:
                    listener.close()
                    _answer(asking)
                finally:
                    os._exit(0)
            working.append(child)
            asking.close()
    os._exit(0)  # Python's own end would look through all that was imported


def _plan() -> None:
    from pipeline.config import load_params
    from pipeline.plan import Plan

    assert Plan(load_params(ROOT / "params.yaml")).runs


def _ended(alive: int, folder: str) -> bool:
    """Whether nobody is left, and none came meanwhile; who comes later starts another."""
    try:
        with _locked(Path(folder)):
            if nobody := alive in select.select([alive], [], [], 0)[0]:
                for name in ("line", "alive"):
                    Path(folder, name).unlink()
            return nobody
    except FileNotFoundError:  # the session has removed it
        return True


def _answer(asking: socket.socket) -> None:
    """Runs what is asked for in a fork, which dies with who asked, and says how it ended."""
    length, streams, _, _ = socket.recv_fds(asking, 8, 3)
    with asking.makefile("rb") as stream:
        program, words, place, environment = json.loads(stream.read(int.from_bytes(length, "big")))
    if (job := os.fork()) == 0:
        asking.close()
        _become(program, words, place, environment, streams)
    for descriptor in streams:
        os.close(descriptor)
    ended = os.pidfd_open(job)
    ready, _, _ = select.select([ended, asking], [], [])
    if ended not in ready:
        os.kill(job, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
    if ended in ready:
        asking.send(bytes([code if code >= 0 else 128 - code]))


def _become(program: str, words: list[str], place: str, environment: dict[str, str], streams: list[int]) -> None:
    """The program itself."""
    status = 1
    try:
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
            os.close(descriptor)
        # Those of before know of a file whether it can be wound back.
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
        os.chdir(place)
        os.environ.clear()
        os.environ.update(environment)
        status = _run(program, words)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        status = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run(program: str, words: list[str]) -> int:
    name = Path(program).name
    if name == "snakemake":
        import snakemake.cli

        from snakemake_logger_plugin_permafrost import complaint, targets_last

        # As at Snakemake's start, when logger plugins are imported.
        sys.argv = ["snakemake", *targets_last(words)]
        if said := complaint(sys.argv[1:]):
            sys.exit(f"error: {said}")
        snakemake.cli.main()
    elif name == "dvc":
        from dvc.cli import main

        sys.argv = ["dvc", *words]
        return main(words)
    elif words[1] == "pipeline":
        from pipeline.cli import main

        sys.argv = ["python -m pipeline", *words[2:]]
        main()
    else:
        from lightning.fabric.utilities.rank_zero import _get_rank, rank_zero_only
        from torch import distributed

        rank_zero_only.rank = _get_rank() or 0  # Lightning asks the environment when it is imported
        sys.executable, sys.argv = program, ["-m", *words[2:]]  # what it starts is a call too
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        if distributed.is_initialized():
            distributed.destroy_process_group()  # as at an exit, which a fork has not
    return 0

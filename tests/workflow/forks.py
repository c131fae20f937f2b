"""The programs of a project as calls: each is a fork of one process, which has imported the libraries already.

For tests of what a workflow makes. What is killed, or seen from outside, runs as the real programs.
"""

import atexit
import importlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import TextIO

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
    "pipeline.training.trainer",
)
# Takes the place of `python` and `snakemake`: asks for a fork in its place, lends it its streams, and ends as it ends.
PROGRAM = """\
#!{python} -IS
import os, sys
name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
if name == "python" and words[:2] != ["-m", "pipeline"]:
    os.execv({python!r}, [{python!r}, *words])
import json, socket
asked = json.dumps([name, words, os.getcwd(), dict(os.environ)]).encode()
line = socket.socket(socket.AF_UNIX)
line.connect({address!r})
socket.send_fds(line, [len(asked).to_bytes(8, "big")], [0, 1, 2])
line.sendall(asked)
ended = line.recv(1)
os._exit(ended[0] if ended else 1)
"""


@cache
def programs() -> Path:
    """Folders to put first on PATH, of which `jobs` has no Snakemake. They work until this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="forks-"))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address := f"{folder}/line")
    listener.listen(100)
    for place in ("all/python", "all/snakemake", "jobs/python"):
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_text(PROGRAM.format(python=sys.executable, address=address), encoding="utf-8")
        (folder / place).chmod(0o755)
    alive, ends = os.pipe()
    lent = (listener.fileno(), alive)
    # A process of its own: a fork of the tests' would have their locks, their trackers of resources and their patches.
    command = [sys.executable, "-c", f"from tests.workflow.forks import serve; serve{lent}"]
    server = subprocess.Popen(command, cwd=ROOT, pass_fds=lent)
    os.close(alive)
    listener.close()
    atexit.register(_end, server, ends, folder)
    return folder


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
        _become("python", ["-m", "pipeline", *words], str(place), environment, streams)
    os.close(says)
    return job, os.fdopen(said, encoding="utf-8")


def _end(server: subprocess.Popen, ends: int, folder: Path) -> None:
    os.close(ends)
    server.wait()
    shutil.rmtree(folder)


def serve(listening: int, alive: int) -> None:
    """Forks for each who asks, until the other end of `alive` is closed, however its process ends."""
    for module in SLOW_TO_IMPORT:
        importlib.import_module(module)
    with socket.socket(fileno=listening) as listener:
        working: list[int] = []
        while alive not in (ready := select.select([listener, alive], [], [], 1.0)[0]):
            working = [child for child in working if os.waitpid(child, os.WNOHANG)[0] == 0]
            if not ready:
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


def _answer(asking: socket.socket) -> None:
    """Runs what is asked for in a fork, which dies with who asked, and says how it ended."""
    length, streams, _, _ = socket.recv_fds(asking, 8, 3)
    with asking.makefile("rb") as stream:
        name, words, place, environment = json.loads(stream.read(int.from_bytes(length, "big")))
    if (job := os.fork()) == 0:
        asking.close()
        _become(name, words, place, environment, streams)
    for descriptor in streams:
        os.close(descriptor)
    ended = os.pidfd_open(job)
    ready, _, _ = select.select([ended, asking], [], [])
    if ended not in ready:
        os.kill(job, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
    if ended in ready:
        asking.send(bytes([code if code >= 0 else 128 - code]))


def _become(name: str, words: list[str], place: str, environment: dict[str, str], streams: list[int]) -> None:
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
        status = _run(name, words)
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


def _run(name: str, words: list[str]) -> int:
    if name == "snakemake":
        import snakemake.cli

        from snakemake_logger_plugin_permafrost import complaint, targets_last

        # As at Snakemake's start, when logger plugins are imported.
        sys.argv = ["snakemake", *targets_last(words)]
        if said := complaint(sys.argv[1:]):
            sys.exit(f"error: {said}")
        snakemake.cli.main()
    else:
        from pipeline.cli import main

        sys.argv = ["python -m pipeline", *words[2:]]
        main()
    return 0

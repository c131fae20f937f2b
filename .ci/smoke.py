"""Installs the wheel with each Python that is here, and goes from a folder of videos to an accuracy in an empty folder.

    uv run python .ci/smoke.py            # Pythons 3.11 to 3.14, those that this machine has
    uv run python .ci/smoke.py 3.13
    uv run python .ci/smoke.py --others   # than the one that runs this, which the tests are for

The newest goes by the workflow, the others by its verbs in one process. All must give the same predictions. A Python
whose libraries cannot be downloaded is named as not tested; everything else that fails ends this with 1.
"""

import hashlib
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# How uv says that a registry is not to be reached, in lower case: no fault of what is installed.
OFFLINE = (
    "failed to fetch",
    "failed to download",
    "request failed",
    "error sending request",
    "are you offline",
    "network connectivity is disabled",
    "timed out",
)

# What the workflow's jobs do, without their seven processes.
STEPS = ("manifest own", "extract own dinov3", "train probe", "evaluate probe")
VERBS = """
import sys

if __name__ == "__main__":
    from pipeline.cli import app

    for step in sys.argv[1:]:
        app([*step.split(), "--params", "own.yaml"], standalone_mode=False)
"""


class NotReached(Exception):
    """The libraries cannot be downloaded here."""


def main(wanted: tuple[str, ...]) -> None:
    """Runs each, and exits with 1 where one fails or predicts something else."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended before it was done"))  # so that its folder is removed
    if shutil.which("pyenv"):  # whose shims find only what is chosen
        there = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True, check=True).stdout
        os.environ["PYENV_VERSION"] = ":".join(there.split())
    found = {version: place for version in wanted if (place := _python(version))}
    absent = [version for version in wanted if version not in found]
    print(f"Pythons here: {', '.join(found) or 'none'}; NOT TESTED, absent: {', '.join(absent) or 'none'}", flush=True)
    answers = {}
    # Beside uv's cache, so that libraries of gigabytes are linked and not copied.
    cache = Path(_run("uv", "cache", "dir").strip())
    with tempfile.TemporaryDirectory(dir=cache.parent if cache.is_dir() else None) as folder:
        work = Path(folder)
        if found:
            _run("uv", "build", "--quiet", "--wheel", "--out-dir", str(work / "wheel"), cwd=ROOT)
            _videos(work / "videos")
        for version, place in found.items():
            try:
                answers[version] = _answer(version, place, work, by_verbs=version != list(found)[-1])
            except NotReached as error:
                print(f"Python {version}: NOT TESTED, its libraries cannot be downloaded here: {error}", flush=True)
    if len(set(answers.values())) > 1:
        sys.exit(f"predictions differ: {answers}")
    if len(answers) > 1:
        print(f"the same predictions of {', '.join(answers)}", flush=True)


def _python(version: str) -> str | None:
    asked = ["uv", "python", "find", "--no-project", "--no-python-downloads", "--system", version]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _answer(version: str, python: str, work: Path, by_verbs: bool) -> str:
    """The digest of the predictions of an installed wheel."""
    start, home, before = time.monotonic(), work / version, _cpu()
    _run("uv", "venv", "--quiet", "--python", python, str(home))
    (wheel,) = (work / "wheel").glob("*.whl")
    pins = ["--constraints", str(ROOT / "requirements.lock")]
    # From another folder: here uv would compile all libraries, which takes longer than all that follows.
    install = ["uv", "pip", "install", "--quiet", "--python", str(home / "bin/python"), *pins, str(wheel)]
    done = subprocess.run(install, cwd=work, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split())
        if any(mark in said.lower() for mark in OFFLINE):
            raise NotReached(said[-400:])
        sys.exit(f"Python {version}: the wheel cannot be installed:\n{done.stderr[-4000:]}")
    installed, spent = time.monotonic(), _cpu()
    project = work / f"project-{version}"
    path = {"PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": str(home)}
    os.environ.pop("PYTHONPATH", None)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each job would compile torch anew
    _run("permafrost", "new", str(project), path=path)
    init = ["init", str(work / "videos"), "--name", "own", "--out", "own.yaml", "--backbone", "dinov3=mini"]
    _run("permafrost", *init, cwd=project, path=path)
    # Neither a whole training nor more processes are the question: each imports torch, which is seconds.
    with (project / "own.yaml").open("a", encoding="utf-8") as params:
        params.write("compute: {device: cpu, threads: 1, decode_workers: 0}\n")
    _edit(project / "own.yaml", "    kind: probe ", "    epochs: 3\n    kind: probe ")
    if by_verbs:
        (project / "verbs.py").write_text(VERBS, encoding="utf-8")
        _run(str(home / "bin/python"), "verbs.py", *STEPS, cwd=project, path=path)
    else:
        asked = ["--cores", "1", "--configfile", "own.yaml", "--", "results/own_top1.json"]
        _run("snakemake", *asked, cwd=project, path=path)
    (predictions,) = project.glob("runs/probe/*/*/predictions.parquet")
    # Of probabilities three digits: versions of numpy, which differ by Python, may sum in another order.
    code = (
        "import sys, pandas; t = pandas.read_parquet(sys.argv[1]).set_index('sample')\n"
        "for row in t.itertuples(): print(row.Index, row.prediction, *(f'{p:.3f}' for p in row.probabilities))"
    )
    table = _run(str(home / "bin/python"), "-c", code, str(predictions), path=path)
    answer = hashlib.sha256(table.encode()).hexdigest()[:12]
    print(
        f"Python {version}: installed in {installed - start:.0f} s ({spent - before:.0f} s of CPU), from videos to an "
        f"accuracy in {time.monotonic() - installed:.0f} s ({_cpu() - spent:.0f} s of CPU), predictions {answer}",
        flush=True,
    )
    shutil.rmtree(home)
    return answer


def _edit(path: Path, old: str, new: str) -> None:
    """Raises ValueError where the text that is to be replaced is not there once."""
    before, between, after = path.read_text(encoding="utf-8").partition(old)
    if not between or old in after:
        raise ValueError(f"{path} does not hold {old!r} once")
    path.write_text(before + new + after, encoding="utf-8")


def _cpu() -> float:
    """Seconds that processes started here have computed, when they have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(*command: str, cwd: Path | None = None, path: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=os.environ | (path or {}), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def _videos(folder: Path) -> None:
    """Two classes of ten clips: a bright square that moves to the right, or down."""
    for way in ("down", "right"):
        for number in range(10):
            place = folder / way / f"{number}.mp4"
            place.parent.mkdir(parents=True, exist_ok=True)
            with av.open(str(place), "w") as out:
                stream = out.add_stream("mpeg4", rate=12)
                stream.width = stream.height = 64
                for step in range(12):
                    pixels = np.full((64, 64, 3), 20 + 5 * number, np.uint8)
                    y, x = (4 * step, 3 * number) if way == "down" else (3 * number, 4 * step)
                    pixels[y : y + 12, x : x + 12] = 230
                    for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")):
                        out.mux(packet)
                for packet in stream.encode(None):
                    out.mux(packet)


if __name__ == "__main__":
    this = platform.python_version().rpartition(".")[0]
    asked = tuple(sys.argv[1:]) or PYTHONS
    main(tuple(version for version in PYTHONS if version != this) if asked == ("--others",) else asked)

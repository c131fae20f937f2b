"""Installs the wheel with each Python that is here, and goes from a folder of videos to an accuracy in an empty folder.

    uv run python .ci/smoke.py            # Pythons 3.11 to 3.14, those that this machine has
    uv run python .ci/smoke.py 3.13

All must give the same predictions.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def main(wanted: tuple[str, ...]) -> None:
    """Runs each, and exits with 1 where one fails or predicts something else."""
    if shutil.which("pyenv"):  # whose shims find only what is chosen
        there = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True, check=True).stdout
        os.environ["PYENV_VERSION"] = ":".join(there.split())
    found = {version: place for version in wanted if (place := _python(version))}
    print(f"Pythons here: {', '.join(found) or 'none'}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        _run("uv", "build", "--quiet", "--wheel", "--out-dir", str(work / "wheel"), cwd=ROOT)
        _videos(work / "videos")
        answers = {version: _answer(version, place, work) for version, place in found.items()}
    if len(set(answers.values())) > 1:
        sys.exit(f"predictions differ: {answers}")


def _python(version: str) -> str | None:
    asked = ["uv", "python", "find", "--no-project", "--no-python-downloads", "--system", version]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _answer(version: str, python: str, work: Path) -> str:
    """The digest of the predictions of an installed wheel."""
    start, home = time.monotonic(), work / version
    _run("uv", "venv", "--quiet", "--python", python, str(home))
    (wheel,) = (work / "wheel").glob("*.whl")
    pins = ["--constraints", str(ROOT / "requirements.lock")]
    # From another folder: here uv would compile all libraries, which takes longer than all that follows.
    _run("uv", "pip", "install", "--quiet", "--python", str(home / "bin/python"), *pins, str(wheel), cwd=work)
    installed = time.monotonic()
    project = work / f"project-{version}"
    path = {"PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": str(home)}
    os.environ.pop("PYTHONPATH", None)
    _run("permafrost", "new", str(project), path=path)
    init = ["init", str(work / "videos"), "--name", "own", "--out", "own.yaml", "--backbone", "dinov3=mini"]
    _run("permafrost", *init, cwd=project, path=path)
    asked = ["--cores", "2", "--configfile", "own.yaml", "--", "results/own_top1.json"]
    _run("snakemake", *asked, cwd=project, path=path)
    (predictions,) = project.glob("runs/probe/*/*/predictions.parquet")
    code = "import sys, pandas; print(pandas.read_parquet(sys.argv[1]).to_csv(float_format='%.4f'))"
    table = _run(str(home / "bin/python"), "-c", code, str(predictions), path=path)
    took = f"installed in {installed - start:.0f} s, from videos to an accuracy in {time.monotonic() - installed:.0f} s"
    print(f"Python {version}: {took}", flush=True)
    shutil.rmtree(home)
    return hashlib.sha256(table.encode()).hexdigest()[:12]


def _run(*command: str, cwd: Path | None = None, path: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=os.environ | (path or {}), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def _videos(folder: Path) -> None:
    """Two classes of twelve clips: a bright square that moves to the right, or down."""
    for way in ("down", "right"):
        for number in range(12):
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
    main(tuple(sys.argv[1:]) or PYTHONS)

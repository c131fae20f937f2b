"""What every benchmark shares: interleaved timing, a table on the screen, JSON with the machine. Knows no subject."""

import argparse
import inspect
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from pipeline.config import read_documents

ROOT = Path(__file__).parents[1]
WORKFLOW = ("Snakefile", "workflow", "profiles", "environment.yml", "configs", "weights")


def interleaved(
    cases: Mapping[str, Callable[[], None]], rounds: int, warmup: int = 1, between: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Times the cases by turns, so that what else the machine does falls on all of them alike.

    Args:
        cases: name -> what to time.
        rounds: how often each is timed; every other round goes through them backwards.
        warmup: rounds before that are not counted.
        between: what to do, untimed, before each case.

    Returns:
        name -> seconds of each round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(-warmup, rounds):
        for name in sorted(cases, key=list(cases).index, reverse=bool(number % 2)):
            between()
            started = time.perf_counter()
            cases[name]()
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


class Busy:
    """Inside, asks ten times a second how busy a GPU is; `share` is the mean, None without a GPU or an answer.

    Args:
        device: "cuda" or "cpu".
        ask: percent, as nvidia-smi counts it: of the driver's last period, the part in which some kernel ran.
    """

    EVERY = 0.1  # seconds

    def __init__(self, device: str, ask: Callable[[], float] | None = None) -> None:
        self._ask, self._told = ask or _utilization if device == "cuda" else None, []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Busy":
        if self._ask is not None:
            self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ended.set()
        if self._ask is not None:
            self._thread.join()

    @property
    def share(self) -> float | None:
        return sum(self._told) / len(self._told) / 100 if self._told else None

    def _sample(self) -> None:
        while not self._ended.wait(self.EVERY):
            self._told.append(self._ask())


def _utilization() -> float:
    import torch  # by NVML, of nvidia-ml-py

    return torch.cuda.utilization()


def ratio(of: Sequence[float], to: Sequence[float]) -> float:
    """The median of the rounds' own ratios: of / to."""
    return median(one / other for one, other in zip(of, to, strict=True))


def installed(package: str) -> str | None:
    """A competitor's version; None, with a sentence on stderr, where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        print(f"{package} is not installed and is left out: `uv sync` installs it", file=sys.stderr)
        return None


@contextmanager
def scratch(folder: str) -> Iterator[Path]:
    """An empty folder that is removed afterwards, in `folder`, or where it is "": in memory, if there is such a place.

    In memory, what is measured is the code and not a disk that others use too.
    """
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=folder or memory) as name:
        yield Path(name)


def copy_workflow(target: Path) -> None:
    """A project without params, whose code is the installed one."""
    for name in WORKFLOW:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target / name)


@contextmanager
def project(full: bool, small: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Works where params.yaml and its features are: here if `full`, else in a small project, removed afterwards.

    Args:
        small: makes the document of params.yaml that of the small one.
    """
    if full:
        yield
        return
    with scratch("") as folder:
        copy_workflow(folder)
        document = read_documents([ROOT / "params.yaml"]).document
        small(document)
        (folder / "params.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        with chdir(folder):
            yield


def workflow(*targets: str, cores: int = 2) -> None:
    """Has Snakemake make files of the project here. Its jobs call `python` by name: they get this one."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    command = [sys.executable, "-m", "snakemake", "--cores", str(cores), "--", *targets]
    subprocess.run(command, check=True, env=os.environ | {"PATH": path})


def table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints rows under the names of the first one's columns; floats get three figures, None a dash."""
    drawn = Table(title=title, title_justify="left")
    for name in rows[0]:
        drawn.add_column(name, justify="right" if isinstance(rows[0][name], int | float) else "left")
    for row in rows:
        drawn.add_row(*(_cell(row[name]) for name in rows[0]))
    Console(width=None if sys.stdout.isatty() else 120).print(drawn)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def page_table(page: Path, start: str, end: str, lines: Iterable[str]) -> None:
    """Parses the command line, and prints a Markdown table or, with --write, puts it into a page.

    Args:
        page: holds `start` and `end`, between which the table lies.
        lines: the table's, computed when asked for.
    """
    parser = argparse.ArgumentParser(
        description=sys.modules["__main__"].__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help=f"into {page.name}, in place of the table there")
    write = parser.parse_args().write
    told = "".join(f"{line}\n" for line in lines)
    if not write:
        print(told, end="")
        return
    before, _, rest = page.read_text(encoding="utf-8").partition(start)
    page.write_text(f"{before}{start}{told}{end}{rest.partition(end)[2]}", encoding="utf-8")


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, cores, memory, system, versions."""
    facts = Path("/proc/cpuinfo")
    models = [
        line.split(":")[1].strip()
        for line in facts.read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / 2**30, 1),
        "load": round(os.getloadavg()[0], 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("numpy", "torch", "zarr", "h5py")},
    }


def main(run: Callable[..., dict[str, Any]], full: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """Parses the command line, runs, and writes {**result, "machine": {...}} to --json FILE.

    Args:
        run: returns what --json holds; gets the options as keyword arguments.
        full: what --full, the sizes of the tables in benchmarks/README.md, makes of options that are not given.
        options: name -> default, which answers in minutes; each becomes --name with the type of its default (a bool
            becomes a flag).
    """
    parser = argparse.ArgumentParser(description=(sys.modules["__main__"].__doc__ or "").split("\n\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    sizes = ", ".join(f"--{name} {value}" for name, value in full.items() if value is not True)
    parser.add_argument("--full", action="store_true", help=f"as in the tables: {sizes or 'the toy world whole'}")
    for name, default in options.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(default, bool):
            parser.add_argument(flag, action="store_true", default=default)
        else:
            parser.add_argument(flag, type=type(default), default=default, help=f"default {default}")
    if parser.parse_known_args()[0].full:
        parser.set_defaults(**full)
    given = vars(parser.parse_args())
    target = given.pop("json")
    if "full" not in inspect.signature(run).parameters:
        del given["full"]
    result = {**run(**given), "machine": machine()}
    if target is not None:
        target.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result

"""Which tests that take minutes have passed with what is here: `python -m tests.verified`, with --run to run the others
and note it.

They need to run where something changed that they rest on, and nowhere else; a clone has no memory but what is tracked.
So tests/verified.json names for each kind the state at which it passed last, and .ci/run leaves out what is of that
state.
"""

import ast
import hashlib
import json
import sys
from collections.abc import Callable
from functools import cache
from os.path import isfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECORD = "tests/verified.json"
PINS = "requirements.lock"
# What the sweeps of kills and films are about; what they import beyond it has tests that always run.
SWEPT = (
    *("pipeline/store/*.py", "pipeline/video/*.py", "pipeline/config/base.py", "pipeline/config/keys.py"),
    *(f"pipeline/{name}.py" for name in ("digests", "files", "limits", "memory")),
)


@cache
def _named(source: str, package: tuple[str, ...]) -> set[str]:
    """Where the modules lie that a module's source imports, at once or by tests.later, and their packages."""
    names = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                names += [name.name for name in node.names]
            case ast.ImportFrom():
                within = package[: len(package) + 1 - node.level] if node.level else ()
                origin = ".".join([*within, *([node.module] if node.module else [])])
                names += [f"{origin}.{name.name}" for name in node.names]
            case ast.Call(func=ast.Name("Later"), args=[ast.Constant(str() as name)]):
                names.append(name)
    # Importing a.b runs a as well.
    parts = [name.split(".") for name in names]
    return {"/".join(one[:length]) for one in parts for length in range(1, len(one) + 1)}


def imported(path: Path, root: Path) -> set[Path]:
    """The files of this repository that a file of Python imports."""
    places = _named(path.read_text(encoding="utf-8"), path.relative_to(root).parts[:-1])
    files = (f"{root}/{place}{end}" for place in places for end in (".py", "/__init__.py"))
    return {Path(file) for file in files if isfile(file)}


def marked(kind: str, root: Path = ROOT) -> list[Path]:
    """The files of which tests are of this kind."""
    files = (path for folder in ("*", "*/*") for path in root.glob(f"tests/{folder}/test_*.py"))
    mark = f"pytest.mark.{kind}"
    own = {root / "tests/weights_recipe"} if kind == "weights" else set()
    found = (path for path in files if path.parent not in own and mark in path.read_text(encoding="utf-8"))
    return [*own, *sorted(found)]


def _with_imports(ahead: list[Path], root: Path, within: Path | None = None) -> set[Path]:
    """Files, and all that they import within a folder."""
    found = set()
    while ahead:
        if (path := ahead.pop()) not in found:
            found.add(path)
            ahead += [other for other in imported(path, root) if other.is_relative_to(within or root)]
    return found


def _of_weights(root: Path) -> set[Path]:
    """Every file that these tests read or import, other than libraries'."""
    patterns = ("weights/mini-*/*", "weights/*.safetensors", "weights/README.md", "weights/pretraining.json")
    files = {path for pattern in patterns for path in root.glob(pattern)}
    # Backbones are loaded by their names, which no import statement shows.
    folders = ("tests/weights_recipe", "weights/recipe", "pipeline/backbones")
    ahead = [path for folder in folders for path in (root / folder).rglob("*.py")]
    for path in marked("weights", root)[1:]:
        ahead += [path, *path.parent.glob("conftest.py")]
    return files | _with_imports(ahead, root)


def _of_sweeps(root: Path) -> set[Path]:
    """What these tests are about, and the tests with what they import of tests."""
    ahead = []
    for path in marked("sweep", root):
        ahead += [path, *path.parent.glob("conftest.py")]
    return {path for pattern in SWEPT for path in root.glob(pattern)} | _with_imports(ahead, root, root / "tests")


KINDS: dict[str, Callable[[Path], set[Path]]] = {"weights": _of_weights, "sweep": _of_sweeps}


def rests_on(kind: str, root: Path = ROOT) -> list[Path]:
    """Every file that decides whether tests of a kind pass."""
    return sorted({*KINDS[kind](root), root / PINS})


def state(kind: str, root: Path = ROOT) -> str:
    """The sha256 of those files' names and bytes."""
    digest = hashlib.sha256()
    for path in rests_on(kind, root):
        of_file = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root).as_posix()} {of_file}\n".encode())
    return digest.hexdigest()


def recorded(root: Path = ROOT) -> dict[str, str]:
    """The state at which each kind passed last, where that is known."""
    record = root / RECORD
    return json.loads(record.read_text(encoding="utf-8"))["passed_at"] if record.exists() else {}


def passed(root: Path = ROOT) -> list[str]:
    """The kinds that passed with what is here."""
    known = recorded(root)
    return [kind for kind in KINDS if known.get(kind) == state(kind, root)]


def run(kinds: list[str], root: Path = ROOT) -> int:
    """Runs each kind, and notes the state where all passed and nothing changed meanwhile. Returns an exit code."""
    worst = 0
    for kind in kinds:
        before = state(kind, root)
        code = int(pytest.main(["-m", f"{kind} and not proof", *map(str, marked(kind, root)), "--durations", "10"]))
        worst = max(worst, code)
        if code == 0 and state(kind, root) == before:
            document = {"passed_at": {**recorded(root), kind: before}, "by": "python -m tests.verified --run"}
            (root / RECORD).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return worst


def main(words: list[str], root: Path = ROOT) -> int:
    """Says which kinds passed, for pytest's -m; with --run, runs the others."""
    done = passed(root)
    if words == ["--run"]:
        return run([kind for kind in KINDS if kind not in done], root)
    print(" or ".join(["proof", *done]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

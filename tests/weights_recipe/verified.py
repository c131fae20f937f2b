"""Whether the tests of the shipped weights, and those of backbones at full size, have passed with what is here:
`python -m tests.weights_recipe.verified`, with --run to run them and note it.

They need to run where something changed that they rest on, and nowhere else; a clone has no memory but what is tracked.
So weights/verified.json names the state at which they passed last, and .ci/run runs them where it names another one.
"""

import ast
import hashlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORD = "weights/verified.json"
TESTS = "tests/weights_recipe"
MARK = "pytest.mark.weights"
# Their own tests and files, and what pins the libraries; code is followed by its imports.
OF_ANY_KIND = ("weights/mini-*/*", "weights/*.safetensors", "weights/README.md", "weights/pretraining.json")
PINS = "requirements.lock"


def imported(path: Path, root: Path) -> set[Path]:
    """The files of this repository that a file of Python imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(root).parts[: -node.level] if node.level else ()
            origin = ".".join([*package, *([node.module] if node.module else [])])
            names = [origin, *(f"{origin}.{name.name}" for name in node.names)]
        else:
            continue
        for name in names:
            # Importing a.b runs a as well.
            parts = name.split(".")
            for length in range(1, len(parts) + 1):
                module = root.joinpath(*parts[:length])
                found |= {file for file in (module.with_suffix(".py"), module / "__init__.py") if file.is_file()}
    return found


def marked(root: Path = ROOT) -> list[Path]:
    """The files whose tests, or some of them, are of the shipped weights or of a backbone at full size."""
    ours = root / TESTS
    files = [path for path in root.glob("tests/*/test_*.py") if path.parent != ours]
    return [ours, *sorted(path for path in files if MARK in path.read_text(encoding="utf-8"))]


def rests_on(root: Path = ROOT) -> list[Path]:
    """Every file that those tests read or import, other than libraries'."""
    found = {path for pattern in OF_ANY_KIND for path in root.glob(pattern)} | {root / PINS}
    # Backbones are loaded by their names, which no import statement shows.
    folders = (TESTS, "weights/recipe", "pipeline/backbones")
    ahead = [path for folder in folders for path in (root / folder).rglob("*.py")]
    for path in marked(root)[1:]:
        ahead += [path, *path.parent.glob("conftest.py")]
    while ahead:
        if (path := ahead.pop()) not in found:
            found.add(path)
            ahead += imported(path, root)
    return sorted(found)


def state(root: Path = ROOT) -> str:
    """The sha256 of those files' names and bytes."""
    digest = hashlib.sha256()
    for path in rests_on(root):
        of_file = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root).as_posix()} {of_file}\n".encode())
    return digest.hexdigest()


def recorded(root: Path = ROOT) -> str | None:
    """The state at which they passed last, if that is known."""
    record = root / RECORD
    return json.loads(record.read_text(encoding="utf-8"))["passed_at"] if record.exists() else None


def run(root: Path = ROOT) -> int:
    """Runs them, and where all passed and nothing changed meanwhile, notes the state. Returns pytest's exit code."""
    before = state(root)
    code = int(pytest.main(["-m", "weights", *map(str, marked(root)), "--durations", "10"]))
    if code == 0 and state(root) == before:
        document = {"passed_at": before, "by": f"python -m {TESTS.replace('/', '.')}.verified --run"}
        (root / RECORD).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return code


def main(words: list[str], root: Path = ROOT) -> int:
    """0: they passed with what is here. Else they failed, or are to be run."""
    if words == ["--run"]:
        return run(root)
    if state(root) == recorded(root):
        return 0
    print(f"the tests of weights/ are to run: {RECORD} is of another state")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

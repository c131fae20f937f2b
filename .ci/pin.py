"""Writes the pins: uv.lock -> requirements.lock (hashed), pyproject.toml's constraints, environment.yml.

    uv lock --upgrade && uv run python .ci/pin.py

requirements.lock serves plain pip, the constraints serve uv, environment.yml serves conda; tests/test_pins.py checks
that the three agree.
"""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
PIN = re.compile(r"^([A-Za-z0-9._-]+==[^\s;\\]+(?: ; [^\\\n]+?)?)(?: \\)?$", re.MULTILINE)


def main() -> None:
    """Exports uv.lock and rewrites the two other files from it."""
    shape = ["--no-emit-project", "--all-groups", "--format", "requirements.txt", "--no-header", "--no-annotate"]
    lock = subprocess.run(
        ["uv", "export", *shape], cwd=ROOT, check=True, capture_output=True, text=True, encoding="utf-8"
    ).stdout
    (ROOT / "requirements.lock").write_text(lock, encoding="utf-8")
    pins = [" ".join(pin.split()) for pin in PIN.findall(lock)]
    _between(ROOT / "pyproject.toml", "constraint-dependencies = [\n", "]\n", [f'    "{pin}",\n' for pin in pins])
    direct = _direct_dependencies()
    chosen = [f'      - "{pin}"\n' for pin in pins if pin.split("==")[0] in direct]
    _between(ROOT / "environment.yml", "      # pins\n", "      # end of pins\n", chosen)


def _direct_dependencies() -> set[str]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text[text.index("dependencies = [") : text.index("[project.scripts]")]
    return {name.lower() for name in re.findall(r'"([A-Za-z0-9._-]+)[><=]', section)}


def _between(path: Path, start: str, end: str, lines: list[str]) -> None:
    text = path.read_text(encoding="utf-8")
    head = text.index(start) + len(start)
    path.write_text(text[:head] + "".join(lines) + text[text.index(end, head) :], encoding="utf-8")


if __name__ == "__main__":
    main()

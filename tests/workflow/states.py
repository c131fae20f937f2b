"""What a project has made, in a form that two of them can be compared by."""

import json
from pathlib import Path


def without_timings(path: Path) -> str:
    document = json.loads(path.read_text(encoding="utf-8"))
    del document["provenance"]["timings"], document["_sha256"]
    return json.dumps(document, sort_keys=True)


def timings(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))["provenance"]["timings"]


def stores(project) -> dict[str, bytes]:
    """Every file of every store but the locks."""
    root = project.root / "features"
    files = (path for path in root.glob("*/*-*/**/*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def committed_samples(journal: Path) -> int:
    """Samples of the whole lines of a journal: a line is a batch, and what a kill tore does not count."""
    lines = journal.read_bytes().split(b"\n")[1:-1] if journal.exists() else []
    return sum(len(json.loads(line)["batch"]) for line in lines)

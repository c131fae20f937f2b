"""The sources for which a job is made again, relative to the working directory. Knows no plan."""

import os
from pathlib import Path

from pipeline.tasks import TASKS


def of_task(task: str, *fields: str) -> list[str]:
    """The sources of what fields of a task's record name, and of all above the store that these import."""
    return [os.path.relpath(file) for file in TASKS[task].sources(*fields)]


def sources(*paths: str) -> list[str]:
    """The Python sources at paths of this package, folders or files, relative to the working directory."""
    package = Path(__file__).parents[1]
    found = (package / path for path in paths)
    files = sorted(file for path in found for file in ([path] if path.is_file() else path.rglob("*.py")))
    return [os.path.relpath(file) for file in files]


def page_files() -> list[str]:
    """What the page is set with, beside its code: template, style and script, relative to the working directory."""
    folder = Path(__file__).parents[1] / "reports" / "page"
    return [os.path.relpath(file) for file in sorted(folder.iterdir()) if file.suffix in (".j2", ".css", ".js")]

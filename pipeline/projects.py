"""Where the workflow and its files lie, and a project of one's own that uses them. Knows files only.

In a checkout they are its top level; the wheel carries them as `pipeline/project`.
"""

import shutil
from pathlib import Path

from pipeline.files import write_text

_CARRIED = Path(__file__).parent / "project"
ROOT = _CARRIED if _CARRIED.is_dir() else Path(__file__).parents[1]
SNAKEFILE = str(ROOT / "Snakefile")
# What a project makes, in its folder.
FEATURES, RUNS, SEARCHES = Path("features"), Path("runs"), Path("results/searches")
# What a project starts with: params and studies to edit, vocabularies and params of real datasets, the mini backbones.
COPIED = ("params.yaml", "studies", "configs", "profiles", "weights/mini-*")
OWN = """\
# The workflow is the installed package's; rules of your own go below. See `snakemake --help`.
from pipeline.projects import SNAKEFILE


module permafrost:
    snakefile:
        SNAKEFILE


use rule * from permafrost
"""
IGNORED = """\
# What the pipeline makes: features and runs are tracked by DVC, or made again.
/data/
/features/
/runs/
/logs/
/results/report.html
.snakemake/
*.partial
*.part
"""


class ProjectExists(ValueError):
    """The folder holds something that a new project would replace."""


def new_project(folder: Path) -> list[Path]:
    """Writes what a project needs outside the checkout: a Snakefile, params, profiles and the mini backbones.

    Args:
        folder: made if it is not there. What lies in it stays.

    Returns:
        What was written, below `folder`.

    Raises:
        ProjectExists: something of it is there already; nothing was written.
        OSError: the folder cannot be written.
    """
    sources = {found.relative_to(ROOT): found for name in COPIED for found in sorted(ROOT.glob(name))}
    written = [Path("Snakefile"), Path(".gitignore"), *sources]
    if there := [str(path) for path in written if (folder / path).exists()]:
        raise ProjectExists(
            f"{folder}: {', '.join(there)} would be replaced; name a new folder, or remove what is no longer needed"
        )
    for path, source in sources.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, folder / path, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, folder / path)
    write_text(folder / ".gitignore", IGNORED)
    write_text(folder / "Snakefile", OWN)  # last: with it the project is one
    return written

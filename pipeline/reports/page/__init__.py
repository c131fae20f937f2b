"""One self-contained HTML page of everything that is finished. Reads results only: no store's arrays, no video.

`gather` finds the files, `overview`, `results`, `explained` and `stages` say what is in them as blocks, and
page.html.j2 with page.css and page.js sets the blocks. It draws nothing itself: a result's pictures are the files of
its report and its explanation (`stills`), and what has no file is a bar in a table. The page asks nobody for anything.
"""

from functools import partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.files import write_text
from pipeline.plan import Plan
from pipeline.reports.page.blocks import command
from pipeline.reports.page.gather import Found, PageError, gather
from pipeline.reports.page.leaders import leaderboard
from pipeline.reports.page.overview import claims, missing, summary, warnings
from pipeline.reports.page.results import result_section
from pipeline.reports.page.searches import searches
from pipeline.reports.page.stages import ablations, cost, data

__all__ = ["PageError", "write_page"]


def write_page(plan: Plan, out: Path, root: Path = Path(), snakemake: str = "snakemake --cores all") -> None:
    """Writes the page by rename. Equal results give equal bytes: there is no date on it.

    Args:
        plan: of the params, which say what there should be.
        out: the HTML file.
        root: the project's folder.
        snakemake: the command line whose target makes what is missing.

    Raises:
        PageError, Damaged, StoreError: a file that is there and is not what was written.
    """
    write_text(out, _render(gather(plan, root), snakemake))


def _render(found: Found, snakemake: str) -> str:
    finished = [result for result in found.results if result.document is not None]
    sections = [
        summary(found),
        *([claims(found)] if found.claims else []),
        *leaderboard(found),
        *(result_section(result, found.mini) for result in finished),
        *([ablations(found)] if any(table.document is not None for table in found.ablations) else []),
        *([searches(found)] if any(of.document is not None for of in found.searches) else []),
        data(found),
        cost(found),
        *missing(found, snakemake),
    ]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["command"] = partial(command, snakemake)
    return environment.get_template("page.html.j2").render(sections=sections, warnings=list(warnings(found)))

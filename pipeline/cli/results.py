"""The commands of results: tables, claims and pages are written, finished runs listed, what nothing needs removed."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Column, Table

from pipeline.memory import megabytes
from pipeline.projects import FEATURES, RUNS, SEARCHES

from .base import ParamsOption, app, console, learner, params_of, plan_of, say


@app.command()
def report(
    evaluation: Path,
    out: Path,
    params: Annotated[
        str | None, typer.Option(help="Parameters; with them, timelines show frames of the videos.")
    ] = None,
    baseline: Annotated[
        list[str] | None, typer.Option(help="ROLE=EVALUATION of a linear probe that it stands beside. Repeatable.")
    ] = None,
) -> None:
    """Publish the result in runs/HEAD/KEY/EVALUATION, with its pictures, as OUT: results/<name>.json."""
    from pipeline.reports import publish

    shown = {}
    if params is not None:
        from pipeline.plan import manifest_path
        from pipeline.prediction import strips
        from pipeline.reports.files import read_result
        from pipeline.runs import RESULT, Run

        if len(evaluation.parts) < 3:
            raise typer.BadParameter(f"EVALUATION is runs/HEAD/KEY/EVALUATION, got {evaluation}")
        head = evaluation.parts[-3]
        chosen = params_of(params, heads=head)
        # The folder that was named, whatever these params would call it; no store is opened.
        run = Run(chosen, head, manifest_path(chosen.head(head).dataset), {}, evaluation.parent)
        if not (evaluation / RESULT).exists():  # what makes it is not always what is asked for
            read_result(evaluation, Path("results", f"{run.config.result}.json"))
        shown["strips"] = partial(strips, run)
    if baseline:
        shown["baselines"] = {role: Path(place) for role, _, place in (of.partition("=") for of in baseline)}
    publish(evaluation, out, **shown)


@app.command()
def ablation(name: str, params: ParamsOption = "params.yaml", out: Path = Path("results/ablations")) -> None:
    """Write the table of an ablation from the results of its runs, as JSON, CSV and Markdown."""
    from pipeline.reports import ablation_table

    plan = plan_of(params, ablations=name)
    chosen, folders = plan.params.ablations[name], [run.evaluation_folder for run in plan.ablation_runs(name)]
    say(ablation_table(chosen, plan.task(chosen.head).name, folders, out / name))


@app.command()
def search(name: str, params: ParamsOption = "params.yaml", out: Path = SEARCHES) -> None:
    """Search the hyper-parameters of a head: a training a trial, judged on its holdout. A killed search goes on."""
    from pipeline.reports import search_table
    from pipeline.search import search as run

    say(search_table(run(learner(params, searches=name), name, out), out / name))


@app.command()
def claims(params: ParamsOption = "params.yaml", out: Path = Path("results/claims.json")) -> None:
    """Check the claims about ablations, and write the outcome as JSON and as a Markdown table."""
    from pipeline.reports import claims_table

    plan = plan_of(params)
    folders = {key: [run.evaluation_folder for run in runs] for key, runs in plan.claimed.items()}
    say(claims_table(plan.params.claims, folders, out))


@app.command()
def page(
    params: ParamsOption = "params.yaml",
    out: Path = Path("results/report.html"),
    snakemake: Annotated[
        str, typer.Option(help="The command shown for results that are missing.")
    ] = "snakemake --cores all",
) -> None:
    """Write one self-contained HTML page with every finished result, and the commands for those that are missing."""
    from pipeline.reports.page import write_page

    write_page(plan_of(params), out, snakemake=snakemake)
    say(f"{out}: {megabytes(out.stat().st_size)}")


@app.command()
def runs(
    params: ParamsOption = "params.yaml",
    of_head: Annotated[str | None, typer.Option("--head", help="Only runs of this head, a past one too.")] = None,
    of_dataset: Annotated[str | None, typer.Option("--dataset", help="Only runs on this dataset.")] = None,
    sort: Annotated[
        str | None, typer.Option(help="A figure (top1), trainable, seed or finished; by default that.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line instead of a table.")] = False,
    root: Annotated[Path, typer.Option("--runs", help="Folder of runs.")] = RUNS,
) -> None:
    """List every finished run: its figures, what it has otherwise than the head of params, and what refers to it."""
    from pipeline.config import ParamsError
    from pipeline.finished import CELLS, Finished, cells, ordered, uncollected

    with uncollected():
        found = Finished(plan_of(params), root)
        try:
            found.used  # noqa: B018
        except ParamsError as error:
            say(f"what params refer to cannot be told: {error}")
            found.used = {}
        lines = ordered(found.chosen(of_head, of_dataset), sort)
        if as_json:
            print("".join(f"{json.dumps(line.record)}\n" for line in lines), end="")
            return
        table = Table(*(Column(name, overflow="fold") for name in CELLS), box=box.SIMPLE_HEAD, show_edge=False)
        for line in lines:
            table.add_row(*cells(line), style="red" if line.fault else None)
        console.print(table)


@app.command()
def prune(
    params: Annotated[
        list[str] | None,
        typer.Option(
            help="Parameter files; what any refers to is kept. Repeatable; by default params.yaml and all of configs/."
        ),
    ] = None,
    root: Path = FEATURES,
    runs: Path = RUNS,
    delete: Annotated[bool, typer.Option("--delete", help="Remove them; by default they are only listed.")] = False,
) -> None:
    """List the stores, runs and evaluations that no parameter file refers to; with --delete, remove them.

    What DVC tracks stays in its cache, from which it can be checked out again, until `dvc gc`.
    """
    from pipeline.runs import RESULT
    from pipeline.store import StoreBusy, leftovers, remove

    default = ["params.yaml", *map(str, sorted(Path("configs").glob("*.yaml")))]
    plans = [plan_of(document) for document in params or default]
    kept = {path for plan in plans for path in plan.referenced(root, runs)}
    evaluations = {path.parent for path in runs.glob(f"*/*/*/{RESULT}") if path.parents[1] in kept}
    places = (*root.glob("*/*-*"), *runs.glob("*/*"), *evaluations)
    found = [path for path in places if path.is_dir() and path not in kept]
    half_gone = [path for parent in (*root.glob("*"), *runs.glob("*"), *runs.glob("*/*")) for path in leftovers(parent)]
    freed = 0
    for path in sorted({*found, *half_gone}):
        # A link of DVC's frees nothing: its bytes are the cache's.
        size = sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
        try:
            if delete:
                remove(path)
        except StoreBusy as error:
            say(f"{path}: kept, {error}")
            continue
        freed += size
        say(f"{path}: {megabytes(size)}{' removed' if delete else ''}")
    say(f"{megabytes(freed)} {'removed' if delete else 'could be removed: run again with --delete'}")

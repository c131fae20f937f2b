"""The commands of heads: they are trained, evaluated, asked and explained."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.projects import RUNS

from .base import Lines, Overrides, ParamsOption, RunsOption, app, console, learner, run_of, say

if TYPE_CHECKING:
    from pipeline.runs import Run

LISTED = 20  # files without an answer
WIDE = ("file", "class", "predicted")  # columns of names


@app.command()
def train(head: str, params: ParamsOption = "params.yaml", runs: RunsOption = None, changes: Overrides = None) -> None:
    """Train a head from the feature stores. A killed training resumes from its last checkpoint."""
    from pipeline.training import train as run

    if not runs:
        run(run_of(params, head, changes, everywhere=True))
        return
    chosen = _rows(params, head, runs, changes, lambda of: of.key)
    compute = next(iter(chosen.values())).params.compute
    if compute.devices * compute.nodes > 1 or compute.strategy == "ddp":
        raise typer.BadParameter(
            "--runs trains on one device, and compute.devices, nodes or strategy ask for more processes; train each "
            "with --set, or lower them"
        )
    from pipeline.series import each

    each(chosen, run, say)


@app.command()
def mine(head: str, params: ParamsOption = "params.yaml", changes: Overrides = None) -> None:
    """Mine the negative words of a head and their roles (NegMine): a table, and a text file for each role."""
    from pipeline.evaluation.negatives import mine_negatives

    run = run_of(params, head, changes)
    table = mine_negatives(run)
    counts = ", ".join(f"{count} {role}" for role, count in table["role"].value_counts().items())
    say(f"{run.folder}: {len(table)} negative words, {counts}")


@app.command()
def sweep(
    name: str,
    keys: Annotated[list[str], typer.Argument(help="RUN/EVALUATION of the rows to compute.")],
    params: ParamsOption = "params.yaml",
) -> None:
    """Score many variants of an ablation in one process, for a head that trains nothing: about a second each."""
    from pipeline.evaluation import evaluate as score
    from pipeline.evaluation.negatives import mine_negatives
    from pipeline.training.dataset import DataError

    plan = learner(params, ablations=name)
    runs = {f"{run.key}/{run.evaluation}": (*row, run) for row, run in plan.ablated(name).items()}
    if absent := [key for key in keys if key not in runs]:
        raise typer.BadParameter(f"{absent[0]} is no run of ablations.{name}: known are {', '.join(runs)}")
    mined: set[str] = set()
    for variant, seed, found in map(runs.__getitem__, keys):
        try:
            if found.key not in mined:
                mine_negatives(found)
            mined.add(found.key)
            score(found)
        except DataError as error:
            raise DataError(f"ablations.{name}, {variant}, seed {seed}: {error}") from error


@app.command()
def baselines(
    head: Annotated[str, typer.Argument(help="Whose runs they lie beside.")],
    params: ParamsOption = "params.yaml",
    probes: Annotated[bool, typer.Option("--probes", help="The heads of these parameters are the probes.")] = False,
) -> None:
    """Train and evaluate what a classifier's result stands beside: a linear probe of each of its inputs."""
    from pipeline.evaluation import evaluate as score
    from pipeline.training import train as learn

    # The workflow hands over the probes alone: an edit of the head makes none of them again.
    plan = learner(params) if probes else learner(params, heads=head)
    own = {} if probes else plan.baselines.get(plan.params.head(head).result, {})
    found = map(plan.run, plan.params.heads) if probes else own.values()
    alone = plan.params.compute.model_copy(update={"devices": 1, "nodes": 1, "strategy": "auto"})
    for run in found:
        of = head if probes else run.head  # one that it shares with another head's result lies among that head's runs
        chosen = run.params.replacing(of, run.config).model_copy(update={"compute": alone})
        probe = replace(run, params=chosen, head=of, folder=RUNS / of / run.key)
        learn(probe)
        score(probe)


@app.command()
def evaluate(
    head: str, params: ParamsOption = "params.yaml", runs: RunsOption = None, changes: Overrides = None
) -> None:
    """Evaluate a trained head on its evaluation split; writes result.json and predictions into the run's folder."""
    from pipeline.evaluation import evaluate as run

    if not runs:
        run(run_of(params, head, changes))
        return
    chosen = _rows(params, head, runs, changes, lambda of: f"{of.key}/{of.evaluation}")
    from pipeline.series import each

    each(chosen, run, say)


@app.command()
def predict(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Videos, or pictures for a head that reads pictures. For a table, also folders of them, and lists "
            "(.txt) with a path a line."
        ),
    ],
    head: Annotated[str, typer.Option(help="Name of the head in the parameters.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per file instead of a table.")] = False,
    map: Annotated[str | None, typer.Option(help="clip_align: the attention map of the video, or `none`.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for label files, timelines and predicted maps; by default predictions. Or a table of all "
            "answers, NAME.parquet, NAME.csv or NAME.jsonl: a killed one goes on where it was."
        ),
    ] = None,
    transcripts: Annotated[
        Path | None,
        typer.Option(help="Folder with a transcript <video>.txt for each video: its classes in order, one a line."),
    ] = None,
    params: ParamsOption = "params.yaml",
    changes: Overrides = None,
) -> None:
    """Apply the finished run of a head to new files, with exactly the extraction that its dataset went through."""
    from pipeline.prediction import predict as ask
    from pipeline.prediction.many import TABLES, listed, predict_table

    run = run_of(params, head, changes)
    if out is not None and out.suffix in TABLES:
        made = predict_table(run, listed(files, _aside), out, map, transcripts, done=Lines(head))
        there = f", of which {made.resumed} were there" if made.resumed else ""
        say(f"{out}: {made.files} files{there}; {made.failed} have no answer")
        raise typer.Exit(1 if made.failed else 0)
    errors, without, answered = Console(stderr=True, markup=False, emoji=False), [], False
    with errors.status("") as status:
        told = lambda line: status.update(Text(line))  # noqa: E731
        answers = ask(run, files, map, out, transcripts, told)
        for file, answer in zip(files, answers, strict=True):
            status.stop()  # a line of its own would mix with what is printed
            if isinstance(answer, Exception):
                without.append(str(file))
                print(f"error: {answer}", file=sys.stderr, flush=True)
            elif as_json:
                say(json.dumps(answer.record, ensure_ascii=False))
            else:
                console.print(_answer_table(answer, None if answered else str(run.folder)))
                answered = True
            status.start()
    if without and len(files) > 1:
        more = f" and {len(without) - LISTED} more" if len(without) > LISTED else ""
        print(
            f"{len(without)} of {len(files)} files have no answer: {', '.join(without[:LISTED])}{more}", file=sys.stderr
        )
    raise typer.Exit(1 if without else 0)


def _aside(line: str) -> None:
    """Beside the answers, which another program may read."""
    print(line, file=sys.stderr, flush=True)


def _answer_table(answer: Any, title: str | None) -> Table:
    """The rows of one file, under the names of the columns where it is the first: those of the next lie below these."""
    table = Table(title=title, show_header=title is not None, expand=True, box=box.SIMPLE_HEAD, show_edge=False)
    for column in answer.columns:
        table.add_column(column, overflow="fold", ratio=3 if column in WIDE else 1)
    for row in answer.rows:
        table.add_row(*row)
    return table


@app.command()
def sanity(head: str = "negalign", params: ParamsOption = "params.yaml", changes: Overrides = None) -> None:
    """Check properties that a sound NegAlign must have, on the finished run of a head."""
    from pipeline.explanation.sanity import sanity as checks

    run = run_of(params, head, changes)
    found = checks(run)
    table = Table(title=str(run.folder))
    for column in ("check", "figures", "holds"):
        table.add_column(column, overflow="fold")
    for check in found:
        table.add_row(check.says, check.figures, "yes" if check.holds else "NO")
    console.print(table)
    raise typer.Exit(0 if all(check.holds for check in found) else 1)


@app.command()
def explain(
    head: str,
    out: Annotated[Path | None, typer.Option(help="results/NAME, in which the folder explanation is made.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="A part: attention, features, importance, maps, overlays.")
    ] = None,
    params: ParamsOption = "params.yaml",
    changes: Overrides = None,
) -> None:
    """Explain the finished run of a head: its attention, its feature space, and the importance of each input."""
    from pipeline.explanation import explain as look

    run = run_of(params, head, changes)
    look(run, out or Path("results") / run.config.result, only or (), say)


def _rows(
    params: str, head: str, asked: list[str], changes: list[str] | None, key: Callable[["Run"], str]
) -> dict[str, "Run"]:
    """Runs of a head's ablations, each once, by what messages call them.

    Args:
        asked: names of ablations, and keys.
        key: of a run, as `asked` may have it.
    """
    if changes:
        raise typer.BadParameter("--set and --runs: the rows of an ablation say what they change; give one of the two")
    plan = learner(params, heads=head)
    names = [name for name, of in plan.params.ablations.items() if of.head == head]
    rows: dict[str, dict[str, Run]] = {}  # ablation, or key -> name -> run
    for ablation in names:
        for (variant, seed), run in plan.ablated(ablation).items():
            name = f"{variant}, seed {seed} ({run.folder})"
            for of in (ablation, key(run)):
                rows.setdefault(of, {})[name] = run
    if absent := [of for of in asked if of not in rows]:
        known = ", ".join([*names, *(of for of in rows if of not in names)][:LISTED]) or "none, it has no ablation"
        raise typer.BadParameter(f"--runs {absent[0]}: no ablation or run of {head}; known are {known}")
    found: dict[str, tuple[str, Run]] = {}
    for of in asked:
        for name, run in rows[of].items():
            found.setdefault(key(run), (name, run))
    return dict(found.values())

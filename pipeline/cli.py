"""The command line: the commands that the rules call, one for each step. Holds no logic of its own.

Imports happen inside the commands: `--help` should not pay for reading params, nor a plan for a deep-learning library.
"""

import errno
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from pipeline.digests import write_json
from pipeline.files import write_text
from pipeline.memory import first_line, is_out_of_memory, megabytes
from pipeline.projects import FEATURES, RUNS, SEARCHES

if TYPE_CHECKING:
    from pipeline.config import Params
    from pipeline.plan import Plan
    from pipeline.runs import Run

HELP = """Extract features once, train heads on them as often as you like.

The Snakemake workflow calls these commands. By hand you will mostly want predict, explain, info, verify and prune.
"""
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=HELP)
# A pipe has no width of its own: in a log a table should not be folded at 80 columns.
# Files and classes are called as users please: "cam[red]1.webm" is a name, no markup.
console = Console(width=None if sys.stdout.isatty() else 200, markup=False, emoji=False, highlight=False)

OURS = ("pipeline.", "permafrost.")
LACKING = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "get the right to it or name another place"),
    **dict.fromkeys((errno.EISDIR, errno.ENOTDIR), "name a file where one is wanted, and a folder where that is"),
    errno.EEXIST: "name a folder, or remove the file that is there",
    errno.ENAMETOOLONG: "name it shorter",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
SECONDS_BETWEEN_LINES = 5.0
LISTED = 20  # files without an answer
WIDE = ("file", "class", "predicted")  # columns of names
CORES: ContextVar[int | None] = ContextVar("CORES", default=None)  # that this command was given, where somebody said
ParamsOption = Annotated[str, typer.Option("--params", help="Parameters: a YAML file, or a literal JSON document.")]
ShardsOption = Annotated[
    str | None, typer.Option("--shards", "--shard", help="Only these shards: 3, or 3-66; by default all.")
]
RunsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--runs",
        help="Instead of the head as params have it, runs of its ablations, one after the other in one process: an "
        "ablation's name, or a row's key. Repeatable.",
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a parameter of the head: model.fusion=concat. Repeatable.")
]


@app.callback(invoke_without_command=False)
def given(
    cores: Annotated[
        int | None,
        typer.Option(min=1, help="Cores that a job was given: what params say of processes is lowered to fit."),
    ] = None,
) -> None:
    CORES.set(cores)


def _fitting(params: "Params", threads: int, processes: int = 1) -> "Params":
    """Params with as many decode processes or readers as the cores of this job leave.

    Args:
        threads: those that compute.
        processes: among which the cores are divided.
    """
    cores = CORES.get()
    if cores is None:
        return params
    from pipeline.resources import within

    fitting = within(params.compute, cores // processes, threads)
    if fitting != params.compute:
        wanted = params.compute.decode_workers
        say(f"--cores {cores}: {fitting.decode_workers} of the {wanted} of compute.decode_workers are started")
    return params.model_copy(update={"compute": fitting})


def say(line: str) -> None:
    """One line, at once, so that a log shows progress while the job runs."""
    print(line, flush=True)


def _params(source: str, **parts: Any) -> "Params":
    """Params, or the parts of them that a command needs: `config.load_params`."""
    from pipeline.config import load_params

    return load_params(source, **parts)


def _plan(source: str, **parts: Any) -> "Plan":
    """The plan of params, or of parts of them."""
    from pipeline.plan import Plan

    return Plan(_params(source, **parts))


class _Lines:
    """Progress as a line every few seconds, and at the end."""

    def __init__(self, name: str) -> None:
        self.name, self.last = name, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if done == total or time.monotonic() - self.last > SECONDS_BETWEEN_LINES:
            self.last = time.monotonic()
            say(f"{self.name}: {done} of {total}")


def main(program: Callable[[], Any] | None = None) -> None:
    """Runs a command, of `app` or of another program; an error that the user can correct is one message."""
    for stream in (sys.stdout, sys.stderr):
        # A log or a pipe is UTF-8 whatever the locale; a terminal shows what it can. No name of a user's ends a verb.
        stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")
    # Another package's backbone or head may lie beside params.yaml: `python -m pipeline` finds it there by itself.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        (program or app)()
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        # Every error of ours carries its remedy and comes from one of our modules; where the machine lacks something it
        # is told here; anything else is a bug.
        message = str(error) if type(error).__module__.startswith(OURS) else _of_the_machine(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(1)


def _of_the_machine(error: Exception) -> str | None:
    """The message for lack of memory, disk space or permission; None for any other error."""
    if isinstance(error, OSError) and error.errno in LACKING:
        return f"{error.filename or 'a file'}: {os.strerror(error.errno)}; {LACKING[error.errno]}, and run again"
    if is_out_of_memory(error):
        return f"out of memory ({first_line(error)}); lower batch, batch_size, cache_memory_gb or a width in params"
    return None


@app.command()
def toyworld(dataset: str, params: ParamsOption = "params.yaml") -> None:
    """Render a dataset of the toy world: real encoded videos or pictures, in the layout of the real dataset."""
    from pipeline.config import canonical_json
    from pipeline.plan import RENDERED
    from pipeline.toyworld import WRITERS

    chosen = _params(params, datasets=dataset)
    if chosen.toyworld is None or (rendering := chosen.datasets[dataset].rendering) is None:
        raise typer.BadParameter(f"{dataset} is not made by toyworld")
    root = Path(chosen.datasets[dataset].root)
    (root / RENDERED).unlink(missing_ok=True)
    WRITERS[rendering](chosen.toyworld, root, say, workers=CORES.get())
    write_text(root / RENDERED, canonical_json(chosen.rendering(dataset)))


@app.command()
def manifest(
    dataset: str,
    imported: Annotated[
        list[str] | None,
        typer.Argument(
            help="Imported features (backbone: imported, npy) whose files are indexed too; by default all that a "
            "head reads."
        ),
    ] = None,
    afresh: Annotated[
        bool, typer.Option("--afresh", help="Hash every file, even if its size and time are unchanged.")
    ] = False,
    params: ParamsOption = "params.yaml",
    root: Path = FEATURES,
) -> None:
    """Read every sample of a dataset once; write its index (digests, facts of the files) and a data-quality report."""
    from pipeline.datasets import build_manifest, quality_markdown, read_manifest, write_manifest
    from pipeline.plan import Plan, imported_stores

    chosen = _params(params, datasets=dataset, features=imported or [])
    stores = imported_stores(chosen, imported or Plan(chosen).imported(dataset))
    path = root / dataset / "manifest.parquet"
    previous = read_manifest(path, unproved=True) if path.exists() else None
    workers = min(chosen.compute.threads, CORES.get() or chosen.compute.threads)
    frame, quality = build_manifest(chosen.datasets[dataset], previous, workers, say, imported=stores, afresh=afresh)
    write_manifest(frame, path)
    # An unchanged file is not written again, but the scheduler must see that it was looked at; what a link of DVC's
    # leads to is others' too.
    os.utime(path, follow_symlinks=False)
    write_json(path.with_name("quality.json"), quality)
    write_text(path.with_name("quality.md"), quality_markdown(quality))


@app.command()
def extract(
    dataset: str,
    features: Annotated[list[str], typer.Argument(help="Several are extracted in one pass over the videos.")],
    shards: ShardsOption = None,
    params: ParamsOption = "params.yaml",
    root: Path = FEATURES,
) -> None:
    """Run frozen backbones over a dataset into feature stores. A killed extraction resumes where it was."""
    from pipeline.extraction import extract_range as run

    chosen = _params(params, datasets=dataset, features=features)
    chosen = _fitting(chosen, chosen.compute.extract_threads)
    run(chosen, dataset, features, _numbers(chosen, dataset, shards, root), root, say)


@app.command()
def derive(
    dataset: str,
    feature: str,
    shards: ShardsOption = None,
    params: ParamsOption = "params.yaml",
    root: Path = FEATURES,
) -> None:
    """Compute a feature from another feature's store; no backbone runs."""
    from pipeline.extraction import derive_range as run

    chosen = _params(params, datasets=dataset, features=feature)
    run(chosen, dataset, feature, _numbers(chosen, dataset, shards, root), root, say)


def _numbers(params: "Params", dataset: str, asked: str | None, root: Path) -> list[int]:
    """The shards of a dataset that were asked for: all, `3`, or of `3-66` those that there are."""
    from pipeline.datasets import DatasetError, read_shards

    if asked is None:
        from pipeline.plan import Plan

        return Plan(params).shards(dataset)
    told = re.fullmatch(r"(\d+)(?:-(\d+))?", asked, re.ASCII)
    first, last = map(int, (told[1], told[2] or told[1])) if told else (1, 0)
    if first > last:
        raise typer.BadParameter(f"--shards {asked!r}: expected a number, or the first and the last as in 3-66")
    manifest = root / dataset / "manifest.parquet"
    if first == last or not manifest.exists():  # what is not there is told where it is read
        return [first]
    there = sorted(set(read_shards(manifest).values()))
    found = [number for number in there if first <= number <= last]
    if not found:
        raise DatasetError(f"--shards {asked}: {manifest} has no shard between them; it has {there[0]} to {there[-1]}")
    if first < there[0] or last > there[-1]:
        say(f"--shards {asked}: {dataset} has shards {there[0]} to {there[-1]}; {found[0]} to {found[-1]} are made")
    return found


@app.command()
def plan(
    params: ParamsOption = "params.yaml",
    devices: Annotated[
        list[int] | None,
        typer.Option("--devices", min=1, help="Jobs at once; repeatable; by default 1 and 8."),
    ] = None,
) -> None:
    """List the jobs of extraction and training that are to be done, and how long they take by the declared costs."""
    from pipeline.config.costs import START_SECONDS, makespan
    from pipeline.together import Runs

    chosen = _plan(params)
    work = chosen.extractions()
    table = Table()
    for column in ("dataset", "features", "ms a sample", "shards", "to do", "jobs", "shards a job", "minutes a job"):
        table.add_column(column, justify="left" if column in ("dataset", "features") else "right", overflow="fold")
    for of in work:
        most = max(of.jobs, default=0)
        table.add_row(
            of.dataset,
            ", ".join(of.features),
            f"{1000 * of.sample_seconds:.3g}",
            str(of.shards),
            str(sum(of.jobs)),
            str(len(of.jobs)),
            str(most),
            f"{most * of.shard_seconds / 60:.1f}",
        )
    console.print(table)
    for name, owner in chosen.unrendered.items():
        say(f"{name} is not rendered yet, and not in this plan; `python -m pipeline toyworld {owner}` renders it")
    jobs = [count * of.shard_seconds for of in work for count in of.jobs]
    for count in devices or [1, 8]:
        hours = makespan(jobs, count) / 3600
        say(f"{count} at once: {len(jobs)} jobs, {hours:.2f} hours, {START_SECONDS:.0f} s of each job's start included")
    runs = Runs(chosen)
    for count in devices or [1, 8]:
        trained = runs.trainings(min(count, chosen.params.compute.jobs))
        jobs = [of.seconds * size for of in trained for size in of.jobs]
        todo, all_of_them = sum(sum(of.jobs) for of in trained), sum(of.runs for of in trained)
        hours = makespan(jobs, count) / 3600
        say(f"{count} at once: {todo} of {all_of_them} trainings in {len(jobs)} jobs, {hours:.2f} hours")


@app.command()
def verify(
    stores: Annotated[list[Path], typer.Argument(help="Stores, or folders of stores: features, features/DATASET.")],
) -> None:
    """Check every checksum of stores: data, index, journal, manifest. Reports missing and foreign files."""
    from pipeline.store import StoreError, stores_below

    wrong = 0
    for named in stores:
        try:
            for store in stores_below(named):
                wrong += _verified(store)
        except StoreError as error:
            wrong += 1
            say(str(error))
    raise typer.Exit(1 if wrong else 0)


def _verified(store: Path) -> int:
    """Verifies a store. Returns the number of findings."""
    from pipeline.datasets import DatasetError, read_shards
    from pipeline.store import StoreMissing
    from pipeline.store import verify as run

    told, expected, manifest = [], None, store.absolute().parent / "manifest.parquet"
    try:
        expected = set(read_shards(manifest).values()) if manifest.exists() else None
    except DatasetError as error:  # it may be of a later version, or damaged: the store can be read all the same
        told.append(str(error))
    try:
        for found in run(store, _Lines(f"{store}: shards verified"), expected):
            where = ", ".join(part for part in (found.shard, found.sample, found.field) if part)
            told.append(f"{where}: {found.what}")
    except StoreMissing as error:
        told.append(str(error))
    for line in told:
        say(f"{store}: {line}")
    say(f"{store}: {f'{len(told)} not as it was written' if told else 'intact'}")
    return len(told)


@app.command()
def info(params: ParamsOption = "params.yaml", root: Path = FEATURES) -> None:
    """List the stores: what they hold, what it was computed from, how large it is, and which heads read it."""
    from pipeline.store import StoreError, describe

    chosen = _params(params)
    users, damaged = _users(chosen, root), 0
    table = Table(title=str(root))
    for column in ("store", "fields", "ok", "failed", "shards", "unfinished", "MB", "weights", "made by", "used by"):
        table.add_column(column, overflow="fold")
    for store in sorted(path for path in root.glob("*/*-*") if path.is_dir()):
        user = ", ".join(users.get(store, ())) or "nothing in these params"
        try:
            facts = describe(store)
        except StoreError as error:
            damaged += 1
            say(f"{store}: {error}")
            unknown = [""] * (len(table.columns) - 3)
            table.add_row(str(store.relative_to(root)), "cannot be read, see above", *unknown, user)
            continue
        shapes = ", ".join(f"{name} {tuple(f['shape'])} {f['dtype']}" for name, f in facts["fields"].items())
        table.add_row(
            str(store.relative_to(root)),
            shapes,
            str(facts["counts"]["ok"]),
            str(facts["counts"]["failed"]),
            str(facts["shards"]),
            str(len(facts["unfinished"])),
            f"{facts['bytes'] / 1e6:.1f}",
            _digests(facts["provenance"].get("weights", {})),
            _makers(facts["environments"].values()),
            user,
        )
    console.print(table)
    raise typer.Exit(1 if damaged else 0)


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
        found = Finished(_plan(params), root)
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
    plans = [_plan(document) for document in params or default]
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


def _digests(weights: dict[str, str] | str) -> str:
    """How the digests of a feature's weights begin; the first stores had one, not one a network."""
    return ", ".join(digest[:12] for digest in ([weights] if isinstance(weights, str) else weights.values()))


def _makers(chain: Iterable[list[dict[str, Any]]]) -> Text:
    """Devices that computed a store and what it rests on; where one feature has several environments, what differs."""
    from pipeline.store import apart

    devices, mixed = {}, []
    for environments in chain:
        devices |= {" ".join(of["device"].values()): None for of in environments if "device" in of}
        mixed += [Text(f"mixed: {apart(environments)}", "red")] if len(environments) > 1 else []
    return Text("; ").join([Text(", ".join(devices)), *mixed])


def _users(params: "Params", root: Path) -> dict[Path, list[str]]:
    """Store -> the heads and features that read it, and its data set where that asks for it by name."""
    from pipeline.config import ParamsError, feature_dir

    users: dict[Path, list[str]] = {}

    def note(dataset: str, feature: str, user: str) -> None:
        try:
            store = feature_dir(params, dataset, feature, root)
        except ParamsError as error:
            say(f"the store of {feature} cannot be told: {error}")
            return
        users.setdefault(store, []).append(user)
        for other in params.features[feature].reads:
            note(dataset, other, feature)

    for name, head in params.heads.items():
        for read in head.evaluation_inputs.values():
            note(read.dataset, read.feature, name)
    for name, dataset in params.datasets.items():
        for feature in dataset.features:
            note(name, feature, f"datasets.{name}")
    return users


@app.command()
def train(head: str, params: ParamsOption = "params.yaml", runs: RunsOption = None, changes: Overrides = None) -> None:
    """Train a head from the feature stores. A killed training resumes from its last checkpoint."""
    from pipeline.training import train as run

    if not runs:
        run(_run(params, head, changes, everywhere=True))
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

    run = _run(params, head, changes)
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

    plan = _learner(params, ablations=name)
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
    plan = _learner(params) if probes else _learner(params, heads=head)
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
        run(_run(params, head, changes))
        return
    chosen = _rows(params, head, runs, changes, lambda of: f"{of.key}/{of.evaluation}")
    from pipeline.series import each

    each(chosen, run, say)


@app.command()
def predict(
    files: Annotated[list[Path], typer.Argument(help="Videos, or pictures for a head that reads pictures.")],
    head: Annotated[str, typer.Option(help="Name of the head in the parameters.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per file instead of a table.")] = False,
    map: Annotated[str | None, typer.Option(help="clip_align: the attention map of the video, or `none`.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for label files, timelines and predicted maps; by default predictions.")
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

    run = _run(params, head, changes)
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

    run = _run(params, head, changes)
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

    run = _run(params, head, changes)
    look(run, out or Path("results") / run.config.result, only or (), say)


def _run(params: str, head: str, changes: list[str] | None, everywhere: bool = False) -> "Run":
    """The run of a head, with the overrides applied; where it is trained everywhere, on all devices of this node."""
    from pipeline.config import assigned

    plan = _learner(params, everywhere, heads=head)
    return plan.run(head, dict(assigned(change, "--set") for change in changes or ()))


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
    plan = _learner(params, heads=head)
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


def _learner(source: str, everywhere: bool = False, **parts: Any) -> "Plan":
    """`_plan` of what reads stores, fitted to this job. On several nodes each process is given cores of its own."""
    from pipeline.plan import Plan

    params = _params(source, **parts)
    compute = params.compute
    return Plan(_fitting(params, compute.threads, compute.devices if everywhere and compute.nodes == 1 else 1))


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
        chosen = _params(params, heads=head)
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

    plan = _plan(params, ablations=name)
    chosen, folders = plan.params.ablations[name], [run.evaluation_folder for run in plan.ablation_runs(name)]
    say(ablation_table(chosen, plan.task(chosen.head).name, folders, out / name))


@app.command()
def search(name: str, params: ParamsOption = "params.yaml", out: Path = SEARCHES) -> None:
    """Search the hyper-parameters of a head: a training a trial, judged on its holdout. A killed search goes on."""
    from pipeline.reports import search_table
    from pipeline.search import search as run

    say(search_table(run(_learner(params, searches=name), name, out), out / name))


@app.command()
def claims(params: ParamsOption = "params.yaml", out: Path = Path("results/claims.json")) -> None:
    """Check the claims about ablations, and write the outcome as JSON and as a Markdown table."""
    from pipeline.reports import claims_table

    plan = _plan(params)
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

    write_page(_plan(params), out, snakemake=snakemake)
    say(f"{out}: {megabytes(out.stat().st_size)}")

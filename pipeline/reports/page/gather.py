"""What a project has finished, and what its params still ask for. Reads result files; opens no store and no video."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pipeline.config import Weights, weights_digest
from pipeline.digests import read_json
from pipeline.finished import Finished, Line
from pipeline.plan import Plan, Run
from pipeline.projects import SEARCHES
from pipeline.reports.files import PREDICTIONS, beside, read_history, read_predictions
from pipeline.store.manifest import read_manifest

EXPLAINED = ("features", "importance")  # results/<name>/explanation/<this>.json
# A log of the page's own would never let two pages be the same.
OWN_LOG = "page"


class PageError(ValueError):
    """A log that the page is made from cannot be read; the message gives the remedy."""


@dataclass(frozen=True)
class Result:
    """A result that params ask for.

    Attributes:
        name, head, task: results/<name>.json, of which head, and what kind.
        asked: the head's params as they are now.
        document: what the file holds; None where there is none.
        evaluation: the folder that it was published from, in that of its run; None where it is gone.
        pictures: "report" and "explanation", where they are made -> what their pictures show -> file; what is not
            among them the head does not have.
        explained: "features" and "importance" -> what explains it, of those that exist.
    """

    name: str
    head: str
    task: str
    asked: Mapping[str, Any]
    document: dict[str, Any] | None
    evaluation: Path | None
    pictures: dict[str, dict[str, Path]]
    explained: dict[str, dict[str, Any]]

    @property
    def history(self) -> pd.DataFrame | None:
        """Losses and accuracies by epoch; None of a head that trains nothing."""
        return self.evaluation and read_history(self.evaluation.parent)

    def predictions(self, *columns: str) -> pd.DataFrame | None:
        """A row a sample."""
        if not self.evaluation or not (self.evaluation / PREDICTIONS).exists():
            return None
        return read_predictions(self.evaluation, Path("results") / f"{self.name}.json", self.document or {}, *columns)


class Ablated(NamedTuple):
    """An ablation that params ask for; `document` is None where it is not made yet."""

    name: str
    head: str
    task: str
    path: Path
    document: dict[str, Any] | None
    picture: Path | None


class Searched(NamedTuple):
    """A search that params ask for, of so many trials.

    Attributes:
        document: what it came to; None where it is not finished.
        done: trials that are.
        now: whether the document is of params as they are.
    """

    name: str
    head: str
    path: Path
    document: dict[str, Any] | None
    trials: int
    done: int
    now: bool
    picture: Path | None


class Store(NamedTuple):
    """A feature of a data set, from the manifests of its shards."""

    dataset: str
    name: str
    shards: int
    ok: int
    failed: int
    bytes: int
    seconds: float | None


@dataclass(frozen=True)
class Found:
    """All of it.

    Attributes:
        results, ablations, searches: in the order of params.
        evaluations: every finished one that params refer to.
        claims: claim -> what came out; None where they are not checked yet, {} where params claim nothing.
        quality: data set -> its quality report, None where there is none.
        stores: by data set and name.
        jobs: stage, seconds, cpu and megabytes of each finished job that Snakemake timed.
        mini: digests of the small weights that come with this project.
    """

    results: list[Result]
    ablations: list[Ablated]
    searches: list[Searched]
    evaluations: list[Line]
    claims: dict[str, dict[str, Any]] | None
    quality: dict[str, dict[str, Any] | None]
    stores: list[Store]
    jobs: pd.DataFrame
    mini: frozenset[str]


def gather(plan: Plan, root: Path) -> Found:
    """Looks for what a plan's params ask for.

    Args:
        plan: of the params.
        root: the project's folder: results, runs, features, logs and weights lie below it.

    Raises:
        PageError: a log that is there and cannot be read.
        Damaged, StoreError: another file that is not what was written.
    """
    results = root / "results"
    ablations = []
    for name, ablation in plan.params.ablations.items():
        path = root / plan.ablation_folder(name) / f"{name}.json"
        picture = path.with_name(f"{name}_seen_unseen.png")
        task = plan.params.head(ablation.head).task
        ablations.append(Ablated(name, ablation.head, task, path, _json(path), picture if picture.exists() else None))
    jobs = _jobs(root / "logs")
    return Found(
        [_result(name, run, root) for name, run in plan.results.items()],
        ablations,
        [_search(plan, name, root) for name in plan.params.searches],
        list(_evaluations(plan, root)),
        _claims(results / "claims.json") if plan.params.claims else {},
        {name: _json(root / "features" / name / "quality.json") for name in plan.params.datasets},
        list(_stores(root / "features", jobs)),
        jobs,
        frozenset(weights_digest(Weights(path=str(path))) for path in sorted((root / "weights").glob("mini-*"))),
    )


def _claims(path: Path) -> dict[str, Any] | None:
    """What came of claims; None where they are not checked, or an earlier version did it."""
    found = _json(path)
    return found if found and all("verdict" in of for of in found.values()) else None


def _search(plan: Plan, name: str, root: Path) -> Searched:
    chosen, path = plan.params.searches[name], root / SEARCHES / f"{name}.json"
    document, picture = _json(path), path.with_suffix(".png")
    done = len(plan.trials(name, root / SEARCHES))
    now = document is not None and document["key"] == plan.search_key(name)
    drawn = picture if picture.exists() else None
    return Searched(name, chosen.head, path, document, chosen.count, done, now, drawn)


def _evaluations(plan: Plan, root: Path) -> Iterator[Line]:
    for line in Finished(plan, root / "runs", root / SEARCHES).evaluations():
        if line.fault:
            raise PageError(line.fault)
        yield line


def _result(name: str, run: Run, root: Path) -> Result:
    path = root / "results" / f"{name}.json"
    folders = sorted(path.with_suffix("").glob("*/pictures"))
    pictures = {of.parent.name: {file.stem: file for file in sorted(of.glob("*.png"))} for of in folders}
    explained = {kind: _json(beside(path, f"{kind}.json", "explanation")) for kind in EXPLAINED}
    return Result(
        name,
        run.head,
        run.config.task,
        run.config.learned | run.config.evaluated,
        _json(path),
        _published_from(path, root / run.evaluation_folder),
        pictures,
        {kind: document for kind, document in explained.items() if document is not None},
    )


def _published_from(path: Path, wanted: Path) -> Path | None:
    """The evaluation whose result.json a result is: that of params as they are, or an earlier one."""
    if (published := _json(path)) is None:
        return None
    published.pop("baselines", None)  # of others' runs
    for found in (wanted / "result.json", *sorted(wanted.parents[1].glob("*/*/result.json"))):
        if _json(found) == published:
            return found.parent
    return None


def _stores(features: Path, jobs: pd.DataFrame) -> Iterator[Store]:
    seconds = jobs.groupby("of")["seconds"].sum()
    for folder in sorted({path.parent for path in features.glob("*/*/shard-*.json")}):
        manifests = [read_manifest(path.with_suffix("")) for path in sorted(folder.glob("shard-*.json"))]
        ok, failed = (sum(of["counts"][kind] for of in manifests) for kind in ("ok", "failed"))
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        place = f"{folder.parent.name}/{folder.name}"
        taken = float(seconds[place]) if place in seconds else None
        yield Store(folder.parent.name, folder.name, len(manifests), ok, failed, size, taken)


def _jobs(logs: Path) -> pd.DataFrame:
    """A row a run of a job: logs/<stage>/<of>/….tsv or logs/<stage>.tsv, as Snakemake's `benchmark` writes them."""
    rows = []
    for path in sorted(logs.rglob("*.tsv")):
        stage, *inner = path.relative_to(logs).with_suffix("").parts
        if stage == OWN_LOG:
            continue
        try:
            table = pd.read_csv(path, sep="\t", na_values=["-", "NA"])
            found = table[["s", "cpu_time", "max_rss"]].astype(float).to_dict("records")
        except (ValueError, KeyError) as error:
            raise PageError(f"{path} is no benchmark of Snakemake's ({error}); delete it") from error
        of = "/".join(inner[:-1])
        rows += [(stage, of, row["s"], row["cpu_time"], row["max_rss"]) for row in found]
    return pd.DataFrame(rows, columns=["stage", "of", "seconds", "cpu", "megabytes"])


def _json(path: Path) -> dict[str, Any] | None:
    """A document that a verb wrote; None where there is none. Raises Damaged: it is not what was written."""
    remedy = "delete it and make it again"
    try:
        return read_json(path, remedy)
    except FileNotFoundError:
        return None

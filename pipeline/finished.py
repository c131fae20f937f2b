"""Every finished training and evaluation on disk, a line each, beside what params ask for now.

Reads small JSON files: no predictions, no store, no torch. What is damaged, or of an earlier version, is a line, too.
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.config import ParamsError, canonical_json, flat
from pipeline.config.base import shown
from pipeline.digests import Damaged, read_json
from pipeline.plan import Plan
from pipeline.projects import RUNS, SEARCHES
from pipeline.runs import RESULT, RUN, Run
from pipeline.tasks import TASKS, Column

HOLDOUT = Column("holdout", 3)  # of a training without an evaluation, such as a search's trials
ABSENT = "absent"  # a parameter that a run of an earlier version does not know
OLD = (KeyError, TypeError, AttributeError, ValueError, IndexError)  # what a document of another layout comes to


@dataclass(frozen=True)
class Line:
    """One evaluation, or a training that has none.

    Attributes:
        head, key, evaluation: runs/<head>/<key>/<evaluation>; no evaluation of a training alone.
        finished: when, in UTC: the time of its file.
        task, dataset, split, seed: as it was made.
        features: role -> name.
        figures: name -> value of its task's columns, the headline first; None where one is not known.
        ci95: of the headline, in its unit; None where there is none.
        evaluated: digest of the evaluated samples and labels; None where it was not kept.
        trainable: trained parameters; None of a head that trains nothing.
        differs: what its parameters have otherwise than the head of params, dotted key -> value.
        why: what else tells it from the head's run, in words; empty where nothing does.
        used: what of params refers to it: "results/x", "ablations.x: row, seed 0", "searches.x: trial 3".
        fault: why it, or its run, cannot be read, and the remedy; empty where it can.
    """

    head: str
    key: str
    evaluation: str
    finished: datetime | None = None
    task: str | None = None
    dataset: str | None = None
    split: str | None = None
    seed: int | None = None
    features: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, float | None] = field(default_factory=dict)
    ci95: Sequence[float] | None = None
    evaluated: str | None = None
    trainable: int | None = None
    differs: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""
    used: Sequence[str] = ()
    fault: str = ""

    @property
    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**vars(self), "finished": self.finished and self.finished.isoformat(timespec="seconds")}

    @property
    def columns(self) -> Sequence[Column]:
        """Of its figures."""
        return columns_of(self.task) if self.evaluation and self.task in TASKS else [HOLDOUT]


def columns_of(task: str) -> list[Column]:
    """The figures of a task's results, the headline first."""
    return sorted(TASKS[task].code("columns"), key=lambda column: column.name != TASKS[task].headline)


class Finished:
    """What lies in a folder of runs, read against a plan.

    Args:
        plan: of the params.
        runs: the folder.
        searches: that of searches' results.
    """

    def __init__(self, plan: Plan, runs: Path = RUNS, searches: Path = SEARCHES) -> None:
        self.plan, self.runs, self.searches = plan, runs, searches
        self._now: dict[str, dict[str, str] | None] = {}

    @cached_property
    def used(self) -> dict[tuple[str, str, str], dict[str, Run | None]]:
        """(head, key, evaluation) -> what of params refers to it -> the run; a search's trials have no evaluation.

        Raises:
            ParamsError: keys cannot be told, as of weights that are not there.
        """
        plan, found = self.plan, {}

        def note(name: str, run: Run) -> None:
            found.setdefault((run.head, run.key, run.evaluation), {})[name] = run

        for name, run in plan.results.items():
            note(f"results/{name}", run)
        for name in plan.params.ablations:
            for (variant, seed), run in plan.ablated(name).items():
                note(f"ablations.{name}: {variant}, seed {seed}", run)
        for name, of in plan.baselines.items():
            for role, run in of.items():
                note(f"baseline of results/{name}: {role}", run)
        for name in plan.params.searches:
            for number, (head, key) in plan.trials(name, self.searches).items():
                found.setdefault((head, key, ""), {})[f"searches.{name}: trial {number}"] = None
        return found

    def chosen(self, head: str | None = None, dataset: str | None = None) -> list[Line]:
        """The lines of a head, of a data set, or all, by folder.

        Raises:
            ParamsError: there is none; names what there is some of.
        """
        found = list(self.lines())
        for option, wanted, name in (("--head", head, "head"), ("--dataset", dataset, "dataset")):
            known = sorted({getattr(line, name) for line in found} - {None})
            if wanted is not None and wanted not in known:
                there = ", ".join(map(shown, known)) or "none"
                raise ParamsError(f"{option} {shown(wanted)}: {self.runs} has no finished run of it; it has of {there}")
            found = [line for line in found if wanted in (None, getattr(line, name))]
        return found

    def evaluations(self) -> Iterator[Line]:
        """The lines of finished evaluations that params refer to, in their order; nothing else is read."""
        for head, key, evaluation in self.used:
            path = self.runs / head / key / evaluation / RESULT
            if evaluation and path.exists():
                yield self._evaluation(path, *_read(path.parents[1] / RUN))

    def lines(self) -> Iterator[Line]:
        """A line for each result.json, and each run.json below which there is none; by folder."""
        evaluations: dict[Path, list[Path]] = {path.parent: [] for path in self.runs.glob(f"*/*/{RUN}")}
        for path in self.runs.glob(f"*/*/*/{RESULT}"):
            evaluations.setdefault(path.parents[1], []).append(path)
        for run, results in sorted(evaluations.items()):
            record, fault = _read(run / RUN)
            if not results:
                yield self._line(run / RUN, Line(*run.parts[-2:], "", fault=fault), record, record)
            for path in sorted(results):
                yield self._evaluation(path, record, fault)

    def _evaluation(self, path: Path, record: Mapping[str, Any], fault: str) -> Line:
        document, damage = _read(path)
        line = Line(*path.parent.parts[-3:], fault="; ".join(filter(None, (damage, fault))))
        return self._line(path, line, document, record)

    def _line(self, path: Path, line: Line, document: Mapping[str, Any], record: Mapping[str, Any]) -> Line:
        used = [*self.used.get((line.head, line.key, line.evaluation), {}), *self._trials(line)]
        line = replace(line, used=used, finished=_time(path))
        if not document:
            return line
        try:
            made = document["provenance"]["params"] if line.evaluation else record["config"]
            told = _evaluated(document) if line.evaluation else _trained(document)
            told = replace(line, **told, trainable=record.get("trainable"), split=made.get("eval_split"))
            features = document["provenance"]["features"] if line.evaluation else record["features"]
            keys = {role: of["key"] for role, of in features.items()}
            return self._beside(told, made, keys)
        except OLD as error:
            what = f"{type(error).__name__}: {shown(str(error))}"
            return replace(line, fault=f"{path} is of an earlier version ({what}); delete it and make it again")

    def _trials(self, line: Line) -> list[str]:
        return list(self.used.get((line.head, line.key, ""), {})) if line.evaluation else []

    def _beside(self, line: Line, made: Mapping[str, Any], keys: Mapping[str, str]) -> Line:
        """What tells it from the head as params have it now."""
        if line.head not in self.plan.params.heads:
            return replace(line, why="params have no head of this name")
        head = self.plan.params.heads[line.head]
        if line.evaluation and line.task != head.task:
            of = ", ".join(line.features.values())
            return replace(
                line, why=f"a {made.get('probe', '')} probe of {of}" if "probe" in made else f"a {line.task}"
            )
        asked = flat(head.learned | (head.evaluated if line.evaluation else {}))
        had = flat(made)
        apart = [key for key in dict.fromkeys([*asked, *had]) if key != "seed" and not _same(had, asked, key)]
        if apart or line.used:
            return replace(line, differs={key: had.get(key, ABSENT) for key in apart})
        if line.seed != head.seed or self._keys(line.head) is None:
            return line
        other = "code or data" if keys == self._keys(line.head) else "features"
        return replace(line, why=f"made of other {other}")

    def _keys(self, head: str) -> dict[str, str] | None:
        """The keys of what a head reads now, by role; None where they cannot be told."""
        if head not in self._now:
            try:
                read = self.plan.run(head).features
                self._now[head] = {role: path.name.rpartition("-")[2] for role, path in read.items()}
            except ParamsError:
                self._now[head] = None
        return self._now[head]


def _same(one: Mapping[str, Any], other: Mapping[str, Any], key: str) -> bool:
    return key in one and key in other and canonical_json(one[key]) == canonical_json(other[key])


def _read(path: Path) -> tuple[dict[str, Any], str]:
    """A document and no fault, or none and why not; neither where there is no file."""
    try:
        return read_json(path, "delete it and make it again"), ""
    except FileNotFoundError:
        return {}, ""
    except Damaged as error:
        return {}, shown(str(error), 500)
    except OSError as error:
        return {}, f"{path} cannot be read: {error.strerror}; get the right to it, or delete it"


def _time(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except (OSError, ValueError, OverflowError):
        return None


def _evaluated(result: Mapping[str, Any]) -> dict[str, Any]:
    rests = result["provenance"]
    between = result.get("ci95")
    if isinstance(between, Mapping):
        between = between.get(TASKS[result["task"]].headline)
    figures = {column.name: _figure(result, column.name) for column in columns_of(result["task"])}
    return {
        "task": result["task"],
        "dataset": rests["params"]["dataset"],
        "seed": rests["seed"],
        "features": {role: of["name"] for role, of in rests["features"].items()},
        "figures": {name: value for name, value in figures.items() if value is not ...},
        "ci95": between,
        "evaluated": rests.get("evaluated"),
    }


def _trained(record: Mapping[str, Any]) -> dict[str, Any]:
    config = record["config"]
    return {
        "dataset": config["dataset"],
        "seed": config["seed"],
        "features": {role: of["provenance"]["feature"] for role, of in record["features"].items()},
        "figures": {HOLDOUT.name: record["holdout_accuracy"]},
    }


def _figure(result: Any, dotted: str) -> Any:
    """What lies at a dotted path; ... where nothing does."""
    for name in dotted.split("."):
        if not isinstance(result, Mapping) or name not in result:
            return ...
        result = result[name]
    return result


def ordered(lines: Sequence[Line], by: str | None) -> list[Line]:
    """Lines with the best, largest or newest of something first, those without it last; None is the newest.

    Args:
        lines: of any tasks.
        by: a figure of a task, by name or title; "trainable", "seed" or "finished".

    Raises:
        ParamsError: no line has it; names what they have.

    >>> lines = [Line("x", key, "1", task="probe", figures={"ece": of}) for key, of in (("a", 0.2), ("b", 0.1))]
    >>> [line.key for line in ordered(lines, "ece")]
    ['b', 'a']
    """
    if by in (None, "finished"):
        return sorted(lines, key=lambda line: line.finished.timestamp() if line.finished else 0.0, reverse=True)
    columns = {column.name: column for line in lines for column in line.columns if column.name in line.figures}
    titles = {column.title: name for name, column in columns.items() if column.title}
    name = titles.get(by, by)
    if name in ("trainable", "seed"):
        values, best = [getattr(line, name) for line in lines], "high" if name == "trainable" else "low"
    elif name in columns:
        values, best = [line.figures.get(name) for line in lines], columns[name].best
    else:
        known = ", ".join([*columns, "trainable", "seed", "finished"])
        raise ParamsError(f"--sort {shown(by)}: no finished run has this figure; known are {known}")
    sign = 1 if best == "low" else -1
    # Values are floats; anything else, as of a document that was edited, is none.
    worth = [sign * value if isinstance(value, int | float) else float("inf") for value in values]
    return [line for _, _, line in sorted(zip(worth, range(len(lines)), lines, strict=True), key=lambda of: of[:2])]


@contextmanager
def uncollected() -> Iterator[None]:
    """No search for garbage: there is none among documents that are read to be shown, and it is a sixth of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


CELLS = ("run", "data", "features", "seed", "figures", "trained", "finished", "differs in", "params have it as")


def cells(line: Line) -> list[str]:
    """A line for people, as `CELLS`: names as they are, whatever they hold, and nothing that a terminal would obey."""
    figures = []
    for column in line.columns:
        value = line.figures.get(column.name)
        if isinstance(value, int | float):
            figures.append(f"{column.title or column.name} {value:.{column.digits}f}")
            if line.ci95 and len(figures) == 1:
                figures[0] += f" [{', '.join(f'{edge:.{column.digits}f}' for edge in line.ci95)}]"
    apart = [f"{key}: {shown(value, 40)}" for key, value in line.differs.items()]
    return [
        shown("/".join(filter(None, (line.head, line.key, line.evaluation))), 300),
        " ".join(shown(of) for of in (line.dataset, line.split) if of),
        ", ".join(shown(name) for name in dict.fromkeys(line.features.values())),
        "" if line.seed is None else str(line.seed),
        line.fault or ", ".join(figures),
        "" if line.trainable is None else f"{line.trainable:,}",
        line.finished.astimezone().strftime("%Y-%m-%d %H:%M") if line.finished else "",
        ", ".join(filter(None, [*apart, line.why])),
        "; ".join(map(shown, line.used)) or "–",
    ]

"""What a task is: one record of all that differs between tasks. Knows none, and imports what a record names only when
it is asked for, so that a plan costs no deep-learning library and a key depends on its own task's code alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipeline import plugins, sources

# The code that decides what a run holds; what it reads from below is in keys and digests of its own.
DECIDES = ("pipeline.training", "pipeline.evaluation", "pipeline.accelerator", "pipeline.runs")
TRAINER = "pipeline.training.trainer"
HEADS = "pipeline.heads"
# The code that asks what a run holds, and draws what it answers.
ASKS = ("pipeline.evaluation", "pipeline.reports", "pipeline.prediction", "pipeline.explanation", HEADS)


class Column(NamedTuple):
    """A figure of a result by its dotted path, and how it is shown; `best` is None where more is not better.

    What is `optional` has no column where no result has it.
    """

    name: str
    digits: int
    best: Literal["high", "low"] | None = "high"
    title: str | None = None
    optional: bool = False


@dataclass(frozen=True, eq=False)
class Task:
    """A task; `package.module:name` names code.

    Attributes:
        name: of the task, as results have it.
        title: for people.
        headline: the figure that its results are judged by, of `columns`.
        scale: what makes percent of it.
        samples: (run) -> what is learned from and evaluated; a run is `runs.Run`, here and below.
        table: (samples, ids, bytes) -> those by row number.
        step: the LightningModule of a training; None where nothing is trained.
        mines: code that decides what else lies in a run's folder.
        version, pinned: raised by hand when this code changes what it writes, and the digest of the code of that
            version. Code of another digest has that for its version.
        model: (run) -> the head with the run's weights.
        graph: (run) -> deployment.graphs.Graph: the head as a function of tensors; None where there is none.
        evaluate: (run) -> evaluation.provenance.Evaluated.
        follows: (predictions, result) -> the headline, computed again.
        columns: `Column`s of its ablations' tables and of the table of runs: figures that `evaluate` returns.
        folder: where these tables lie.
        publish: (evaluation, out) -> pictures of a result.
        looks: whether these show samples, so that they need params and a manifest.
        predict: (question) -> answers for new files.
        points, streams: (run) -> what `explain` projects, and what it permutes.
        page: (result, document) -> its part of the page; headlines: its figures there.
        recalls: whether these tables have a column a class, too.
        compared: pictures beside these tables by ending: what draws one of (variant -> results).
        swept: whether many variants are one job.
        options: of the verb predict, those that it has a use for.
        judged: what an epoch's holdout is judged by, for people.
        baselines: whether its results stand beside chance, the majority, and a linear probe of each of their inputs.
    """

    name: str
    title: str
    headline: str
    columns: str
    evaluate: str
    follows: str
    publish: str
    predict: str
    points: str
    streams: str
    page: str
    headlines: str
    samples: str
    model: str = "pipeline.training.registry:trained"
    table: str | None = None
    graph: str | None = None
    step: str | None = None
    mines: tuple[str, ...] = ()
    version: int = 1
    pinned: str = ""
    scale: float = 1.0
    folder: str = "results/ablations"
    looks: bool = False
    recalls: bool = False
    compared: Mapping[str, str] = field(default_factory=dict)
    swept: bool = False
    options: tuple[str, ...] = ()
    judged: str = "accuracy"
    baselines: bool = False

    def code(self, name: str) -> Any:
        """What one of its fields names. Raises PluginError."""
        return plugins.load(getattr(self, name))

    def sources(self, *fields: str) -> list[Path]:
        """The files of the code that fields name, and of all that it imports of the floors that ask and answer."""
        modules = [getattr(self, name).partition(":")[0] for name in fields]
        # What calls them, in the same folder: reports/__init__.py.
        roots = {*modules, *(module.rpartition(".")[0] for module in modules)}
        roots = {root for root in roots if root.count(".") == 1 or root in modules}
        return sources.files(*sources.imported(*sorted(roots), within=ASKS))

    @property
    def trains(self) -> bool:
        """Whether its heads have weights to learn, unless they say otherwise."""
        return self.step is not None

    def decides(self, head: str) -> tuple[list[str], list[str]]:
        """The modules that decide what a run holds: those of the head and its kind, and those of the task.

        Args:
            head: the module of the head's class.
        """
        named = [place.partition(":")[0] for place in (self.step, self.table, self.samples) if self.step and place]
        roots = [*([TRAINER] if self.step else []), *named, *self.mines]
        package = head.partition(".")[0]
        own = (HEADS, *([] if package == "pipeline" else [package]))
        found = sources.imported(*roots, head, within=(*DECIDES, *own))
        # What a person may choose is in the key by its value.
        found = [module for module in found if not module.startswith(HEADS) or not module.endswith(".config")]
        others = [module for module in found if module.startswith(DECIDES)]
        return [module for module in found if module not in others], others

    def run_code(self, head: str) -> dict[str, Any]:
        """What of the code enters a run's key: the head's own by its digest, the task's by its version.

        Args:
            head: where its class lies, package.module:Name; of another package's module several may be heads, so the
                name enters, too.

        Raises:
            ModuleNotFoundError: what decides a run has no source.
            SyntaxError: its source is of another version of Python.
        """
        module, _, name = head.partition(":")
        heads, others = self.decides(module)
        digest = sources.digest(*others)[:10]
        own = {} if module.startswith("pipeline.") else {"class": name}
        return {"head": sources.digest(*heads), "task": self.version if digest == self.pinned else digest, **own}

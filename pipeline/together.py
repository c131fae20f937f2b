"""Which runs of ablations one process may make after the other, and how they are cut into jobs. Knows no Snakemake.

Who asks for one run of a list asks for all of it, so that no target makes more than it needs.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

from pipeline.config.costs import divide, seconds_a_sample_learned
from pipeline.plan import Plan
from pipeline.runs import RUN, Run

LONGEST_NAME = 200  # of a job; no file system takes a longer file name than 255 bytes
Place = tuple[str, ...]  # (head, key), or (head, key, evaluation)


class Trainings(NamedTuple):
    """The jobs of trainings that are asked for together.

    Attributes:
        seconds: of one, by the declared cost; 0 while its samples are not known.
        runs: how many there are, finished ones among them.
        jobs: the number of runs of each job that is to be done.
    """

    head: str
    seconds: float
    runs: int
    jobs: list[int]


class Together:
    """Trainings, or evaluations, that one process makes after the other.

    Args:
        lists: of two or more of a head.
        place: a run's.
        seconds: that one takes, as declared.
    """

    def __init__(
        self, lists: Sequence[Sequence[Run]], place: Callable[[Run], Place], seconds: Callable[[Run], float]
    ) -> None:
        self.lists, self.place, self.seconds = lists, place, seconds
        self._of_head: dict[str, list[Run]] = defaultdict(list)
        for runs in lists:
            self._of_head[runs[0].head] += runs
        self._list = {place(run): runs for runs in lists for run in runs}
        self._number = {place(run): n for runs in self._of_head.values() for n, run in enumerate(runs)}

    def __contains__(self, place: object) -> bool:
        return place in self._list

    @property
    def places(self) -> Iterable[Place]:
        """All of them."""
        return self._list

    def beside(self, place: Place) -> Sequence[Run]:
        """The list of a run."""
        return self._list[place]

    def cut(self, runs: Sequence[Run], at_once: int) -> list[list[Run]]:
        """Runs of one list, in jobs."""
        if not runs:
            return []
        mean = sum(map(self.seconds, runs)) / len(runs)
        jobs = [list(runs[a:b]) for a, b in divide(len(runs), mean, runs[0].params.compute, at_once)]
        return [part for job in jobs for part in self._with_short_names(job)]

    def _with_short_names(self, runs: list[Run]) -> list[list[Run]]:
        half = len(runs) // 2
        if not half or len(self.name(runs)) <= LONGEST_NAME:
            return [runs]
        return [*self._with_short_names(runs[:half]), *self._with_short_names(runs[half:])]

    def name(self, runs: Iterable[Run]) -> str:
        """What says in a path which runs of its head a job makes: their numbers, as 000-003_007."""
        numbers = sorted(self._number[self.place(run)] for run in runs)
        pieces = [[number for _, number in piece] for _, piece in groupby(enumerate(numbers), lambda of: of[1] - of[0])]
        return "_".join(f"{of[0]:03d}" if len(of) == 1 else f"{of[0]:03d}-{of[-1]:03d}" for of in pieces)

    def named(self, head: str, name: str) -> list[Run]:
        """The runs of a name."""
        bounds = (piece.partition("-") for piece in name.split("_"))
        numbers = (n for first, _, last in bounds for n in range(int(first), int(last or first) + 1))
        return [self._of_head[head][number] for number in numbers]


NAME = r"\d\d\d+(-\d\d\d+)?(_\d\d\d+(-\d\d\d+)?)*"  # of `Together.name`


class Runs:
    """What a plan's trainings and evaluations have together.

    Args:
        plan: of the params.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    @cached_property
    def asked_by(self) -> dict[Place, frozenset[str]]:
        """(head, key, evaluation) -> the results and ablations that ask for it, and whether claims do."""
        plan, found = self.plan, defaultdict(set)
        asked = {f"results/{name}": [run] for name, run in plan.results.items()}
        asked |= {f"ablations/{name}": plan.ablation_runs(name) for name in plan.params.ablations}
        asked["claims"] = [run for runs in plan.claimed.values() for run in runs]
        for name, runs in asked.items():
            for run in runs:
                found[_evaluation(run)].add(name)
        return {place: frozenset(names) for place, names in found.items()}

    @cached_property
    def trained(self) -> Together:
        """Trainings. A result's is in no list, nor one of several devices, which has processes of its own."""
        compute = self.plan.params.compute
        asked: dict[Place, frozenset[str]] = defaultdict(frozenset)
        if compute.devices * compute.nodes == 1 and compute.strategy != "ddp":
            for place, names in self.asked_by.items():
                if self.plan.runs[place[:2]].config.trains:
                    asked[place[:2]] |= names
        found = ((self.plan.runs[place], names) for place, names in asked.items())
        return Together(_lists(found), _training, self.training_seconds)

    @cached_property
    def evaluated(self) -> Together:
        """Evaluations of those trainings."""
        found = ((self.plan.evaluations[of], names) for of, names in self.asked_by.items() if of[:2] in self.trained)
        return Together(_lists(found), _evaluation, self.evaluation_seconds)

    def ablation_of(self, runs: Sequence[Run]) -> str:
        """The first ablation that asks for all runs of a list, or of a part of one."""
        names = self.asked_by[_evaluation(runs[0])]
        return next(name for name in self.plan.params.ablations if f"ablations/{name}" in names)

    def training_seconds(self, run: Run) -> float:
        """Seconds that a training takes, as declared; 0 while nothing is known of its samples."""
        return run.config.epochs * getattr(run.config, "fraction", 1.0) * self._seconds(run, run.config.train_split)

    def evaluation_seconds(self, run: Run) -> float:
        """The same of an evaluation."""
        return self._seconds(run, run.config.eval_split)

    def _seconds(self, run: Run, split: str) -> float:
        each = seconds_a_sample_learned(run.head, run.config.kind, self.plan.params.compute)
        return self.plan.samples(run.dataset, split) * each

    def trainings(self, at_once: int) -> list[Trainings]:
        """The trainings that results and ablations ask for, in jobs, of which so many run at once."""
        asked = {place[:2]: self.plan.runs[place[:2]] for place in self.asked_by}
        alone = [[run] for place, run in asked.items() if run.config.trains and place not in self.trained]
        found = []
        for runs in [*self.trained.lists, *alone]:
            jobs = self.trained.cut([run for run in runs if not (run.folder / RUN).exists()], at_once)
            seconds = sum(map(self.training_seconds, runs)) / len(runs)
            found.append(Trainings(runs[0].head, seconds, len(runs), list(map(len, jobs))))
        return found


def _training(run: Run) -> Place:
    return run.head, run.key


def _evaluation(run: Run) -> Place:
    return run.head, run.key, run.evaluation


def _lists(found: Iterable[tuple[Run, frozenset[str]]]) -> list[list[Run]]:
    """Runs of one head that the same ask for, two or more, and no result among these."""
    lists: dict[tuple[str, frozenset[str]], list[Run]] = defaultdict(list)
    for run, names in found:
        if not any(name.startswith("results/") for name in names):
            lists[run.head, names].append(run)
    return [runs for runs in lists.values() if len(runs) > 1]

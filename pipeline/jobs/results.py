"""The results, ablations and searches of a plan, and the page over them. Knows Snakemake."""

import glob
import os

from pipeline.jobs.code import of_task
from pipeline.jobs.names import one_of
from pipeline.jobs.reads import Reads
from pipeline.plan import Plan
from pipeline.projects import SEARCHES

PAGE = "results/report.html"
RESULTS = ("results/*.json", "results/ablations/*.json", "results/searches/*.json", "results/*/explanation/*.json")


class Results:
    """What is made of runs.

    Args:
        plan: of the params.
        workflow: Snakemake's.
        reads: of its jobs.
    """

    def __init__(self, plan: Plan, workflow, reads: Reads) -> None:
        self.plan, self.workflow, self.reads = plan, workflow, reads

    def every_result(self):
        """The files of all results, and what explains them."""
        results = self.plan.results
        return [*(f"results/{name}.json" for name in results), *(f"results/{name}/explanation" for name in results)]

    def every_ablation(self):
        """The tables of all ablations."""
        return [self.table(name) for name in self.plan.params.ablations]

    def every_search(self):
        """The tables of all searches."""
        return [f"{SEARCHES}/{name}.json" for name in self.plan.params.searches]

    def table(self, ablation):
        """An ablation's table."""
        return f"{self.plan.ablation_folder(ablation)}/{ablation}.json"

    def mined(self):
        """A regular expression of the heads whose runs hold what is mined."""
        return one_of([name for name in self.plan.params.heads if self.plan.task(name).mines])

    def results(self):
        """A regular expression of the results."""
        return one_of(self.plan.results)

    def ablations(self, task):
        """A regular expression of the ablations of heads of a task."""
        chosen = self.plan.params.ablations.items()
        return one_of([name for name, of in chosen if self.plan.task(of.head) is task])

    def searches(self):
        """A regular expression of the searches."""
        return one_of(self.plan.params.searches)

    def snakemake_command(self):
        """How this workflow is called with these params: what the page says of what is missing."""
        chosen = " ".join(os.path.relpath(path) for path in self.workflow.overwrite_configfiles)
        return "snakemake --cores all" + (f" --configfile {chosen}" if chosen else "")

    def evaluation_code(self, wildcards):
        """What an evaluation is made again for: the code of its task's."""
        return of_task(self.plan.runs[wildcards.head, wildcards.key].config.task, "evaluate")

    def report_code(self, wildcards):
        """What a result's report is made again for."""
        return of_task(self.plan.results[wildcards.result].config.task, "publish", "follows")

    def explanation_code(self, wildcards):
        """What a result's explanation is made again for."""
        return of_task(self.plan.results[wildcards.result].config.task, "points", "streams")

    def baselines(self, wildcards):
        """The results of the linear probes that a result stands beside."""
        return [run.result_file for run in self.plan.baselines.get(wildcards.result, {}).values()]

    def beside(self, wildcards):
        """What tells a report of them."""
        roles = self.plan.baselines.get(wildcards.result, {}).items()
        return " ".join(f"--baseline {role}={run.evaluation_folder}" for role, run in roles)

    def shown_manifests(self, wildcards):
        """The manifests of the samples that a report shows, if it shows any."""
        run = self.plan.results[wildcards.result]
        return [self.reads.manifest_of(run.dataset)] if self.plan.task(run.head).looks else []

    def looking(self, wildcards):
        """What lets a report show samples: the params of a run, which say where they are."""
        run = self.plan.results[wildcards.result]
        looks = self.plan.task(run.head).looks
        return f"--params {self.reads.part('head', 'key', 'evaluation')(run)}" if looks else ""

    def result_file(self, wildcards):
        """The result of the evaluation that a head's result file shows."""
        return self.plan.results[wildcards.result].result_file

    def claimed_results(self, wildcards):
        """The results of every run that a claim is about."""
        return [run.result_file for runs in self.plan.claimed.values() for run in runs]

    def of_result(self, function):
        """A function of the run behind a result, as one of the result."""
        return lambda wildcards: function(self.plan.results[wildcards.result])

    def ablation_results(self, wildcards):
        """The results of an ablation's runs: variants times seeds."""
        return [run.result_file for run in self.plan.ablation_runs(wildcards.ablation)]

    def trained(self, wildcards):
        """The run that is trained."""
        return [self.plan.runs[wildcards.head, wildcards.key]]

    def evaluated(self, wildcards):
        """The run that is evaluated."""
        return [self.plan.runs[wildcards.head, wildcards.key]]

    def shown(self, wildcards):
        """The run behind a result."""
        return [self.plan.results[wildcards.result]]

    def tried(self, wildcards):
        """The runs that the trials of a search may be."""
        return self.plan.searched(wildcards.search)

    def search_key(self, wildcards):
        """What changes when a trial would be another run."""
        return self.plan.search_key(wildcards.search)

    def page_results(self, wildcards):
        """What the page waits for, and what it is made again for: what this call was asked for, and all that is there.

        The first by their own names, so that they are made before. The others by absolute paths, which nothing makes:
        a page of what is finished never starts a training.
        """
        groups = {
            "all": self.every_result(),
            "ablations": self.every_ablation(),
            "searches": self.every_search(),
            "claims": ["results/claims.json"],
        }
        targets = self.workflow.dag_settings.targets or ["all"]
        asked = [path for target in targets for path in groups.get(target, [target])]
        awaited = {path for path in asked if path.startswith("results/")} - {PAGE}
        there = {path for kind in RESULTS for path in glob.glob(kind)} - awaited
        # What lies in a folder that is awaited is there after this call, if not before: named, it would be an input
        # more in the next one, and the page made again for it.
        there = {path for path in there if os.path.dirname(path) not in awaited}
        return sorted(awaited) + [os.path.abspath(path) for path in sorted(there)]

    def scored_alone(self):
        """A regular expression of the keys of runs that are no part of a sweep."""
        swept = "|".join(run.key for runs in self.plan.swept.values() for run in runs)
        return f"(?!{swept})[0-9a-f]{{10}}" if swept else "[0-9a-f]{10}"

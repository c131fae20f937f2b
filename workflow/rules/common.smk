"""What the rules share: the validated parameters, and named helpers, so that a rule reads as a sentence."""

import glob
import os
import shlex
import sys

from snakemake.exceptions import WorkflowError
from snakemake.io import IOFile
from snakemake.settings.types import RerunTrigger

from pipeline import plan
from pipeline.config import ENDINGS, ParamsError, parse_written, read_documents
from pipeline.replaced import STAMPS
from pipeline.unlock import unlock_after_a_kill

if workflow.is_main_process:
    unlock_after_a_kill()

# A parameter set named with --configfile stands alone; merging it with params.yaml would mix two data sets' choices.
PARAMS_FILES = workflow.overwrite_configfiles or ["params.yaml"]
# Snakemake's own reader of YAML takes 1e-3 for a text and 010 for eight, and its --config nothing but texts.
workflow.configfiles = [str(path) for path in PARAMS_FILES]

try:
    WRITTEN = read_documents(
        [os.path.relpath(path) for path in PARAMS_FILES],
        workflow.config_settings.config_args,
    )
    PLAN = plan.Plan(parse_written(WRITTEN))
    PLAN.runs  # computes every key now, so that weights that are absent are told before any job
except ParamsError as error:
    raise WorkflowError(str(error))

EVALUATION_CODE = plan.sources("evaluation")
REPORT_CODE = plan.sources("reports")
PREDICTION_CODE = plan.sources("prediction")
EXPLANATION_CODE = [*plan.sources("explanation"), *REPORT_CODE]
PAGE = "results/report.html"
PAGE_CODE = [*REPORT_CODE, *plan.page_files()]


wildcard_constraints:
    dataset=r"[A-Za-z0-9][A-Za-z0-9_-]*",
    feature=r"[A-Za-z0-9][A-Za-z0-9_]*",
    head=r"[a-z0-9_]+",
    key=r"[0-9a-f]{10}",
    evaluation=r"[0-9a-f]{10}",
    shard=r"\d\d\d+",
    result=r"[A-Za-z0-9][A-Za-z0-9_-]*",
    ablation=r"[A-Za-z0-9][A-Za-z0-9_-]*",


def every_result():
    """The files of all results, what explains them, and of those that have them, pictures of single samples."""
    scored = [name for name, run in PLAN.results.items() if run.config.task == "ood"]
    return [
        *(f"results/{name}.json" for name in PLAN.results),
        *(
            f"results/{name}_{kind}.json"
            for name in PLAN.results
            for kind in ("features", "importance")
        ),
        *(f"results/{name}_overlays.png" for name in scored),
    ]


def every_ablation():
    return [
        f"{PLAN.ablation_folder(name)}/{name}.json" for name in PLAN.params.ablations
    ]


def page_results(wildcards):
    """What the page waits for, and what it is made again for: what this call was asked for, and all that is there.

    The first by their own names, so that they are made before. The others by absolute paths, which nothing makes: a page
    of what is finished never starts a training.
    """
    groups = {
        "all": every_result(),
        "ablations": every_ablation(),
        "claims": ["results/claims.json"],
    }
    targets = workflow.dag_settings.targets or ["all"]
    asked = [path for target in targets for path in groups.get(target, [target])]
    awaited = {path for path in asked if path.startswith("results/")} - {PAGE}
    there = {*glob.glob("results/*.json"), *glob.glob("results/ablations/*.json")}
    return sorted(awaited) + [os.path.abspath(path) for path in sorted(there - awaited)]


def snakemake_command():
    """How this workflow is called with these params: what the page says of what is missing."""
    chosen = " ".join(os.path.relpath(path) for path in workflow.overwrite_configfiles)
    return "snakemake --cores all" + (f" --configfile {chosen}" if chosen else "")


def rendered_datasets():
    """A regular expression of the data sets that toyworld may write: never a real one, wherever that lies."""
    return one_of(PLAN.rendered)


def as_found(path):
    """A file as an input; where it was pulled, not made by this project, its time is chance and says nothing."""
    if os.path.exists(path) and not workflow.persistence.metadata(IOFile(path)):
        return ancient(path)
    return path


def see_every_edit():
    """Adds the triggers that numbers rest on to those of a command line or profile that leaves some of them out.

    Called where the first manifest is asked for: of every plan, before it is decided what runs; when rules are read the
    settings are not known yet.
    """
    chosen = set(workflow.dag_settings.rerun_triggers)
    unseen = {RerunTrigger.MTIME, RerunTrigger.PARAMS, RerunTrigger.INPUT} - chosen
    if unseen:
        workflow.dag_settings.rerun_triggers = frozenset(chosen | unseen)
        names = ", ".join(sorted(trigger.item_to_choice() for trigger in unseen))
        print(
            f"rerun-triggers: {names} added; without them an edit would leave old numbers",
            file=sys.stderr,
        )


def standing(dataset):
    """How a data set's manifest stands to its files."""
    see_every_edit()
    executes = workflow.executor_plugin is not None and not workflow.dryrun
    return PLAN.standing(dataset, executes)


def manifest_of(dataset):
    """The manifest table of a data set as an input; where it was pulled, its time says nothing."""
    path = f"features/{dataset}/manifest.parquet"
    if not workflow.is_main_process:
        return path
    found = standing(dataset)
    return as_found(path) if found.pulled and not found.stale else path


def stamp(wildcards):
    """What is newer than a manifest where a file that it was made from was replaced; a job finds it as it is."""
    if workflow.is_main_process:
        return str(standing(wildcards.dataset).stamp)
    return str(STAMPS / wildcards.dataset)


def edited_params(wildcards):
    """The params; their time matters where they ask for another rendering than was pulled: nothing else would tell."""
    stale = PLAN.rendered_otherwise(wildcards.dataset)
    return PARAMS_FILES if stale else [ancient(path) for path in PARAMS_FILES]


def params_for(output, files=lambda wildcards: PARAMS_FILES):
    """A function of the params files; their time matters where it is not known what an output was made with: pulled."""

    def inputs(wildcards):
        made = (
            output(wildcards)
            if callable(output)
            else output.format_map(dict(wildcards))
        )
        known = workflow.persistence.metadata(IOFile(made))
        read = files(wildcards)
        return [ancient(path) for path in read] if known else read

    return inputs


def study_of(wildcards):
    """The params files, and the study that an ablation stands in where that is a file of its own."""
    file = WRITTEN.origins.get(f"ablations.{wildcards.ablation}")
    return [*PARAMS_FILES, *([file] if file else [])]


def every_study(wildcards):
    """The params files and all their studies."""
    return WRITTEN.files


def ablation_table(wildcards):
    return f"{PLAN.ablation_folder(wildcards.ablation)}/{wildcards.ablation}.json"


def annotations(wildcards):
    """The annotation files of a data set; those that toyworld renders exist only once its checkpoint has run."""
    if rendered := PLAN.rendered_with(wildcards.dataset):
        return as_found(checkpoints.toyworld.get(dataset=rendered).output[0])
    return [
        *PLAN.annotation_files(wildcards.dataset),
        *PLAN.label_files(wildcards.dataset),
    ]


def manifest_part(wildcards):
    """The part of params that a manifest is made from, quoted for the shell."""
    imported = PLAN.imported(wildcards.dataset)
    return shlex.quote(PLAN.part(dataset=wildcards.dataset, features=imported))


def afresh(wildcards, output):
    """A forced manifest trusts no size and no time. With the output, so that Snakemake does not remember it."""
    settings = workflow.dag_settings
    forced = settings.forceall or "manifest" in settings.forcerun
    return "--afresh" if forced or output.table in settings.forcerun else ""


def imported(wildcards):
    return " ".join(PLAN.imported(wildcards.dataset))


def look_at(dataset):
    """Has what decides a data set's shards made first: the rendered annotations, and a manifest that is out of date.

    A manifest that is not there yet is waited for by the extraction itself: its shards are known from the annotations.
    """
    if rendered := PLAN.rendered_with(dataset):
        checkpoints.toyworld.get(dataset=rendered)
    if os.path.exists(f"features/{dataset}/manifest.parquet"):
        checkpoints.manifest.get(dataset=dataset)


def run_shards(wildcards):
    """The shard manifests that a run reads: every shard of every feature of its head."""
    return shards_of(inputs_of(PLAN.runs[wildcards.head, wildcards.key]))


def every_shard(wildcards):
    """The shard manifests of every feature that a head or a data set asks for."""
    datasets = PLAN.params.datasets
    return shards_of(
        [(name, feature) for name in datasets for feature in PLAN.features(name)]
    )


def feature_reads(wildcards):
    """The shard manifests of the features that a feature is made from."""
    return as_made(
        PLAN.read_by(wildcards.dataset, wildcards.feature, int(wildcards.shard))
    )


def feature_gpus(wildcards):
    return PLAN.extraction_gpus(wildcards.feature)


def one_of(names):
    """A regular expression of these names, of nothing when there are none."""
    return "|".join(names) or "(?!)"


def heads_of(*tasks):
    """A regular expression of the heads of these tasks."""
    return one_of(
        [name for name, head in PLAN.params.heads.items() if head.task in tasks]
    )


def scored_alone():
    """A regular expression of the keys of runs that are no part of a sweep."""
    swept = "|".join(run.key for runs in PLAN.swept.values() for run in runs)
    return f"(?!{swept})[0-9a-f]{{10}}" if swept else "[0-9a-f]{10}"


def trained_heads():
    return heads_of("classification", "segmentation", "zeroshot", "alignment")


def results_of(*tasks):
    """A regular expression of the results of heads of these tasks."""
    return one_of(
        [name for name, run in PLAN.results.items() if run.config.task in tasks]
    )


def ablations_of(*tasks):
    """A regular expression of the ablations of heads of these tasks."""
    chosen = PLAN.params.ablations.items()
    return one_of(
        [name for name, of in chosen if PLAN.params.head(of.head).task in tasks]
    )


def pictured(category, pictures):
    """Pictures of a result by name, in the report by what they show."""
    if unknown := sorted(pictures.keys() - set(ENDINGS)):
        raise WorkflowError(
            f"results/<name>_{unknown[0]} is not in ENDINGS of pipeline/config/names.py: two results could write it"
        )
    return {
        name: report(
            f"results/{{result}}_{name}.png",
            category=category,
            labels={"result": "{result}", "kind": kind},
        )
        for name, kind in pictures.items()
    }


def published(**pictures):
    """The outputs of a result, in the report by what they show: its numbers, and pictures by name."""
    numbers = report(
        "results/{result}.json",
        category="Results",
        labels={"result": "{result}", "kind": "numbers"},
    )
    return {"json": numbers, **pictured("Results", pictures)}


def explained(**pictures):
    """What explains a result, in the report by what it shows."""
    always = {"features": "feature space", "importance": "importance of inputs"}
    return {
        **pictured("Explanation", {**always, **pictures}),
        **{f"{name}_json": f"results/{{result}}_{name}.json" for name in always},
    }


TIMELINES = {
    "worst": "worst videos",
    "best": "best videos",
    "training": "training curve",
}


def extracted_alone():
    """The features that have a job of their own: neither derived, nor extracted together with others."""
    apart = {*PLAN.derived, *PLAN.fused}
    return one_of([name for name in PLAN.params.features if name not in apart])


def derived():
    return one_of(PLAN.derived)


def run_manifest(wildcards):
    """The manifest table of the data set that a run reads."""
    return manifest_of(PLAN.runs[wildcards.head, wildcards.key].dataset)


def every_manifest(wildcards):
    """The manifest tables of all data sets that a run reads."""
    return manifests_of(inputs_of(PLAN.runs[wildcards.head, wildcards.key]))


def inputs_of(*runs):
    """What runs read, as (data set, feature), each once."""
    return list(
        dict.fromkeys(read for run in runs for read in run.config.inputs.values())
    )


def manifests_of(reads):
    """The manifest tables of the data sets of what is read."""
    return [
        manifest_of(dataset)
        for dataset in dict.fromkeys(dataset for dataset, _ in reads)
    ]


def shards_of(reads):
    """The shard manifests of what is read."""
    for dataset in dict.fromkeys(dataset for dataset, _ in reads):
        look_at(dataset)
    return as_made(PLAN.shard_manifests(reads))


def as_made(shards):
    """Shard manifests as inputs: when they were made says nothing, unless they will be made anew, of other samples.

    Snakemake does not ask a job for reasons of its own once it waits for one that runs; were all of them ancient, it
    would be left out of that call.
    """
    if not workflow.is_main_process:
        return shards
    return [path if PLAN.misfits(path) else ancient(path) for path in shards]


def text_inputs(wildcards):
    """What a run reads of data sets of texts."""
    inputs = inputs_of(PLAN.runs[wildcards.head, wildcards.key])
    return [
        read for read in inputs if PLAN.params.datasets[read.dataset].kind == "text"
    ]


def text_manifests(wildcards):
    return manifests_of(text_inputs(wildcards))


def text_shards(wildcards):
    """The shard manifests of every feature of texts that a run reads."""
    return shards_of(text_inputs(wildcards))


def of_sweep(function, ablation):
    """A function of what the runs of a sweep read, as one of the sweep."""
    return lambda wildcards: function(inputs_of(*PLAN.swept[ablation]))


def part(*names, features=()):
    """The canonical JSON of the part of params that a rule may see, quoted for the shell."""

    def quoted(wildcards):
        chosen = {name: getattr(wildcards, name) for name in names}
        feature = chosen.pop("feature", None)
        return shlex.quote(
            PLAN.part(features=(feature,) if feature else features, **chosen)
        )

    return quoted


def looking_at_videos(wildcards):
    """What lets a report show frames: the params of a run, which say where its videos are."""
    return f"--params {part('head', 'key', 'evaluation')(wildcards)}"


def shard_source(*features):
    """A function of the manifest that a shard of features is made from: those named, or the wildcard's.

    Its time says nothing, its samples' digests do (`shard_digest`). Only where it is out of date is it awaited, and the
    shard looked at again; and where it is not known what a shard was made with, its own digests are asked.
    """

    def manifest(wildcards):
        dataset, shard = wildcards.dataset, int(wildcards.shard)
        path = f"features/{dataset}/manifest.parquet"
        if not workflow.is_main_process:
            return path
        if standing(dataset).stale:
            checkpoints.manifest.get(dataset=dataset)
        made = [
            PLAN.shard_path(dataset, feature, shard)
            for feature in features or [wildcards.feature]
        ]
        forgotten = [of for of in made if not workflow.persistence.metadata(IOFile(of))]
        return path if any(map(PLAN.misfits, forgotten)) else ancient(path)

    return manifest


def shard_digest(*features):
    """A function that changes when a sample of a shard of features is added, removed or replaced.

    Unknown until the manifest is there. It takes wildcards alone: what also takes the input Snakemake calls derived
    from it, and never compares.
    """

    def digest(wildcards):
        path = f"features/{wildcards.dataset}/manifest.parquet"
        return [
            PLAN.shard_digest(path, feature, int(wildcards.shard))
            for feature in features or [wildcards.feature]
        ]

    return digest


def result_file(wildcards):
    """The result of the evaluation that a head's result file shows."""
    return PLAN.results[wildcards.result].result


def claimed_results(wildcards):
    """The results of every run that a claim is about."""
    return [run.result for runs in PLAN.claimed.values() for run in runs]


def of_result(function):
    """A function of the run behind a result, as one of the result."""
    return lambda wildcards: function(PLAN.results[wildcards.result])


def ablation_results(wildcards):
    """The results of an ablation's runs: variants times seeds."""
    return [run.result for run in PLAN.ablation_runs(wildcards.ablation)]

"""What the rules share: the validated parameters, and the names that wildcards may have."""

import shlex

from pipeline.config import ParamsError, parse_written, read_laid
from pipeline.jobs import code
from pipeline.jobs.needs import Needs
from pipeline.jobs.reads import Reads
from pipeline.jobs.results import PAGE, Results
from pipeline.jobs.several import Several
from pipeline.plan import Plan
from pipeline.refusals import CannotPlan, plainly
from pipeline.tasks import TASKS
from pipeline.together import NAME
from pipeline.unlock import unlock_after_a_kill

plainly()

if workflow.is_main_process:
    unlock_after_a_kill()

# A parameter set named with --configfile stands alone; merging it with params.yaml would mix two data sets' choices.
PARAMS_FILES = workflow.overwrite_configfiles or ["params.yaml"]
# Snakemake's own reader of YAML takes 1e-3 for a text and 010 for eight, and its --config nothing but texts.
workflow.configfiles = [str(path) for path in PARAMS_FILES]

try:
    WRITTEN = read_laid(PARAMS_FILES, workflow.config_settings.config_args)
    PLAN = Plan(parse_written(WRITTEN))
    PLAN.runs  # computes every key now, so that weights that are absent are told before any job
except ParamsError as error:
    raise CannotPlan(str(error))

READS = Reads(PLAN, workflow, checkpoints, PARAMS_FILES, WRITTEN)
NEEDS = Needs(PLAN, workflow)
SEVERAL = Several(PLAN, workflow, READS, NEEDS)
RESULTS = Results(PLAN, workflow, READS)


wildcard_constraints:
    dataset=r"[A-Za-z0-9][A-Za-z0-9_-]*",
    feature=r"[A-Za-z0-9][A-Za-z0-9_]*",
    head=r"[A-Za-z0-9][A-Za-z0-9_-]*",
    key=r"[0-9a-f]{10}",
    evaluation=r"[0-9a-f]{10}",
    shard=r"\d\d\d+",
    shards=r"\d\d\d+(-\d\d\d+)?",
    runs=NAME,
    result=RESULTS.results(),
    ablation=r"[A-Za-z0-9][A-Za-z0-9_-]*",
    search=r"[A-Za-z0-9][A-Za-z0-9_-]*",

"""Permafrost's front door: parameters, rules and the default target. See README.md."""

from snakemake.utils import min_version

min_version("9.20")


include: "workflow/rules/common.smk"
include: "workflow/rules/datasets.smk"
include: "workflow/rules/features.smk"
include: "workflow/rules/heads.smk"
include: "workflow/rules/results.smk"


rule all:
    default_target: True
    input:
        RESULTS.every_result(),
        PAGE,
    localrule: True


rule features:
    input:
        READS.every_shard,
    localrule: True


rule ablations:
    input:
        RESULTS.every_ablation(),
    localrule: True


rule searches:
    input:
        RESULTS.every_search(),
    localrule: True

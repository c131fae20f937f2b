"""From a data set on disk to one manifest table; the toy world."""


checkpoint toyworld:
    input:
        READS.edited_params,
    # What else lies there depends on the layout; annotations come last, and this after them.
    output:
        "data/{dataset}/.rendered",
    log:
        "logs/toyworld/{dataset}.log",
    benchmark:
        "logs/toyworld/{dataset}.tsv"
    wildcard_constraints:
        dataset=READS.rendered_datasets(),
    conda:
        "../../environment.yml"
    threads: 8
    params:
        part=READS.part("dataset"),
    shell:
        "python -m pipeline --cores {threads} toyworld {wildcards.dataset} --params {params.part} 2>&1 | tee {log}"


checkpoint manifest:
    input:
        READS.annotations,
        stamp=READS.stamp,
    output:
        table=update("features/{dataset}/manifest.parquet"),
        quality="features/{dataset}/quality.json",
        report=report(
            "features/{dataset}/quality.md",
            category="Data quality",
            labels={"data set": "{dataset}"},
        ),
    log:
        "logs/manifest/{dataset}.log",
    benchmark:
        "logs/manifest/{dataset}.tsv"
    conda:
        "../../environment.yml"
    threads: PLAN.params.compute.threads
    params:
        part=READS.manifest_part,
        imported=READS.imported,
        afresh=READS.afresh,
    shell:
        "python -m pipeline --cores {threads} manifest {wildcards.dataset} {params.imported} {params.afresh} --params {params.part} 2>&1 | tee {log}"

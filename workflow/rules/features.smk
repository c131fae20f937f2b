"""Stage 1: frozen backbones into stores. The shard's manifest is the only declared output, so that a killed job resumes.
It is updated, never removed first: another Snakemake may be reading the store."""


rule extract:
    input:
        manifest=JOBS.shard_source(),
        reads=JOBS.feature_reads,
    output:
        update("features/{dataset}/{feature}-{key}/shard-{shard}.json"),
    log:
        "logs/extract/{dataset}/{feature}-{key}/shard-{shard}.log",
    benchmark:
        "logs/extract/{dataset}/{feature}-{key}/shard-{shard}.tsv"
    wildcard_constraints:
        feature=JOBS.extracted_alone(),
    conda:
        "../../environment.yml"
    threads: JOBS.cores_to_extract()
    resources:
        gpu=JOBS.feature_gpus,
        mem_mb=JOBS.memory_to_extract(),
    params:
        part=JOBS.part("dataset", "feature"),
        samples=JOBS.shard_digest(),
    shell:
        "python -m pipeline.gpu --n {resources.gpu} --"
        " python -m pipeline --cores {threads} extract {wildcards.dataset} {wildcards.feature} --shard {wildcards.shard}"
        " --params {params.part} 2>&1 | tee {log}"


for group in PLAN.params.fused:

    rule:
        name:
            f"extract_{'_and_'.join(group)}"
        input:
            manifest=JOBS.shard_source(*group),
        output:
            [
                update(PLAN.shard_path("{dataset}", feature, "{shard}"))
                for feature in group
            ],
        log:
            f"logs/extract/{{dataset}}/{'_and_'.join(group)}/shard-{{shard}}.log",
        benchmark:
            f"logs/extract/{{dataset}}/{'_and_'.join(group)}/shard-{{shard}}.tsv"
        conda:
            "../../environment.yml"
        threads: JOBS.cores_to_extract(*group)
        resources:
            gpu=PLAN.extraction_gpus(*group),
            mem_mb=JOBS.memory_to_extract(*group),
        params:
            part=JOBS.part("dataset", features=group),
            samples=JOBS.shard_digest(*group),
            features=" ".join(group),
        shell:
            "python -m pipeline.gpu --n {resources.gpu} --"
            " python -m pipeline --cores {threads} extract {wildcards.dataset} {params.features} --shard {wildcards.shard}"
            " --params {params.part} 2>&1 | tee {log}"


rule derive:
    input:
        manifest=JOBS.shard_source(),
        reads=JOBS.feature_reads,
    output:
        update("features/{dataset}/{feature}-{key}/shard-{shard}.json"),
    log:
        "logs/derive/{dataset}/{feature}-{key}/shard-{shard}.log",
    benchmark:
        "logs/derive/{dataset}/{feature}-{key}/shard-{shard}.tsv"
    wildcard_constraints:
        feature=JOBS.derived(),
    conda:
        "../../environment.yml"
    threads: JOBS.cores_to_extract()
    resources:
        gpu=JOBS.feature_gpus,
        mem_mb=JOBS.memory_to_extract(),
    params:
        part=JOBS.part("dataset", "feature"),
        samples=JOBS.shard_digest(),
    shell:
        "python -m pipeline.gpu --n {resources.gpu} --"
        " python -m pipeline derive {wildcards.dataset} {wildcards.feature} --shard {wildcards.shard}"
        " --params {params.part} 2>&1 | tee {log}"

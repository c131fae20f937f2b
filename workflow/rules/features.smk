"""Stage 1: frozen backbones into stores. The shard's manifest is the only declared output, so that a killed job resumes."""


rule extract:
    input:
        manifest=ancient("features/{dataset}/manifest.parquet"),
    output:
        "features/{dataset}/{feature}-{key}/shard-{shard}.json",
    log:
        "logs/extract/{dataset}/{feature}-{key}/shard-{shard}.log",
    benchmark:
        "logs/extract/{dataset}/{feature}-{key}/shard-{shard}.tsv"
    conda:
        "../../environment.yml"
    threads: PLAN.params.compute.extract_threads
    resources:
        gpu=PLAN.gpus,
    params:
        part=part("dataset", "feature"),
        samples=shard_digest,
    shell:
        "python -m pipeline extract {wildcards.dataset} {wildcards.feature} --shard {wildcards.shard}"
        " --params {params.part} 2>&1 | tee {log}"

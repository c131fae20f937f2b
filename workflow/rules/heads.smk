"""Stage 2: heads from caches alone. A run's folder is named by its content, so ablations and branches share it."""


rule train:
    input:
        manifest=run_manifest,
        shards=ancient(run_shards),
    output:
        "runs/{head}/{key}/run.json",
    log:
        "logs/train/{head}-{key}.log",
    benchmark:
        "logs/train/{head}-{key}.tsv"
    conda:
        "../../environment.yml"
    threads: PLAN.params.compute.threads
    resources:
        gpu=PLAN.gpus,
    params:
        part=part("head", "key"),
    shell:
        "python -m pipeline train {wildcards.head} --params {params.part} 2>&1 | tee {log}"


rule evaluate:
    input:
        run="runs/{head}/{key}/run.json",
        manifest=run_manifest,
        shards=ancient(run_shards),
        code=EVALUATION_CODE,
    output:
        "runs/{head}/{key}/result.json",
    log:
        "logs/evaluate/{head}-{key}.log",
    benchmark:
        "logs/evaluate/{head}-{key}.tsv"
    conda:
        "../../environment.yml"
    threads: PLAN.params.compute.threads
    params:
        part=part("head", "key"),
    shell:
        "python -m pipeline evaluate {wildcards.head} --params {params.part} 2>&1 | tee {log}"

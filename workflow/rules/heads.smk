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
    wildcard_constraints:
        head=trained_heads(),
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
    wildcard_constraints:
        head=trained_heads(),
    conda:
        "../../environment.yml"
    threads: PLAN.params.compute.threads
    params:
        part=part("head", "key"),
    shell:
        "python -m pipeline evaluate {wildcards.head} --params {params.part} 2>&1 | tee {log}"


rule mine:
    input:
        manifests=text_manifests,
        shards=ancient(text_shards),
        code=EVALUATION_CODE,
    output:
        table="runs/{head}/{key}/negatives.csv",
        roles=expand(
            "runs/{{head}}/{{key}}/{role}.txt",
            role=["object", "background", "ambiguous"],
        ),
    log:
        "logs/mine/{head}-{key}.log",
    benchmark:
        "logs/mine/{head}-{key}.tsv"
    wildcard_constraints:
        head=heads_of("ood"),
    conda:
        "../../environment.yml"
    params:
        part=part("head", "key"),
    shell:
        "python -m pipeline mine {wildcards.head} --params {params.part} 2>&1 | tee {log}"


use rule evaluate as score with:
    input:
        words="runs/{head}/{key}/negatives.csv",
        manifests=every_manifest,
        shards=ancient(run_shards),
        code=EVALUATION_CODE,
    wildcard_constraints:
        head=heads_of("ood"),

"""Stage 2: heads from caches alone. A run's folder is named by its content, so ablations and branches share it.
Below it each evaluation has one: a training serves many."""


rule train:
    input:
        manifest=run_manifest,
        shards=run_shards,
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
        launcher=PLAN.launcher,
    shell:
        "{params.launcher}python -m pipeline.gpu --n {resources.gpu} --"
        " python -m pipeline train {wildcards.head} --params {params.part} 2>&1 | tee {log}"


rule evaluate:
    input:
        run="runs/{head}/{key}/run.json",
        manifest=run_manifest,
        shards=run_shards,
        code=EVALUATION_CODE,
    output:
        "runs/{head}/{key}/{evaluation}/result.json",
    log:
        "logs/evaluate/{head}-{key}-{evaluation}.log",
    benchmark:
        "logs/evaluate/{head}-{key}-{evaluation}.tsv"
    wildcard_constraints:
        head=trained_heads(),
    conda:
        "../../environment.yml"
    threads: PLAN.params.compute.threads
    resources:
        gpu=PLAN.evaluation_gpus,
    params:
        part=part("head", "key", "evaluation"),
    shell:
        "python -m pipeline.gpu --n {resources.gpu} --"
        " python -m pipeline evaluate {wildcards.head} --params {params.part} 2>&1 | tee {log}"


rule mine:
    input:
        manifests=text_manifests,
        shards=text_shards,
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
        key=scored_alone(),
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
        shards=run_shards,
        code=EVALUATION_CODE,
    wildcard_constraints:
        head=heads_of("ood"),
        key=scored_alone(),


# What is arithmetic on caches does not pay for a process a variant.
for name, runs in PLAN.swept.items():

    rule:
        name:
            f"sweep_{name}"
        input:
            manifests=of_sweep(manifests_of, name),
            shards=of_sweep(shards_of, name),
            code=EVALUATION_CODE,
        output:
            [run.result for run in runs],
        log:
            f"logs/sweep/{name}.log",
        benchmark:
            f"logs/sweep/{name}.tsv"
        conda:
            "../../environment.yml"
        threads: PLAN.params.compute.threads
        resources:
            gpu=PLAN.evaluation_gpus,
        params:
            part=shlex.quote(PLAN.part(ablation=name)),
            ablation=name,
            chosen=" ".join(f"{run.key}/{run.evaluation}" for run in runs),
        shell:
            "python -m pipeline.gpu --n {resources.gpu} --"
            " python -m pipeline sweep {params.ablation} {params.chosen} --params {params.part} 2>&1 | tee {log}"

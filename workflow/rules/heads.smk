"""Stage 2: heads from caches alone. A run's folder is named by its content, so ablations and branches share it.
Below it each evaluation has one: a training serves many."""


rule train:
    input:
        manifest=JOBS.run_manifest,
        shards=JOBS.run_shards,
    output:
        "runs/{head}/{key}/run.json",
    log:
        "logs/train/{head}-{key}.log",
    benchmark:
        "logs/train/{head}-{key}.tsv"
    wildcard_constraints:
        head=JOBS.trained(),
    conda:
        "../../environment.yml"
    threads: JOBS.cores_to_train
    resources:
        gpu=PLAN.gpus,
        mem_mb=JOBS.memory_to_train,
    params:
        part=JOBS.part("head", "key"),
        launcher=PLAN.launcher,
    shell:
        "{params.launcher}python -m pipeline.gpu --n {resources.gpu} --"
        " python -m pipeline --cores {threads} train {wildcards.head} --params {params.part} 2>&1 | tee {log}"


rule evaluate:
    input:
        run=JOBS.made,
        manifests=JOBS.every_manifest,
        shards=JOBS.run_shards,
        code=JOBS.evaluation_code,
    output:
        "runs/{head}/{key}/{evaluation}/result.json",
    log:
        "logs/evaluate/{head}-{key}-{evaluation}.log",
    benchmark:
        "logs/evaluate/{head}-{key}-{evaluation}.tsv"
    wildcard_constraints:
        head=JOBS.not_beside(),
        key=JOBS.scored_alone(),
    conda:
        "../../environment.yml"
    threads: JOBS.cores_of(JOBS.evaluated)
    resources:
        gpu=PLAN.evaluation_gpus,
        mem_mb=JOBS.memory_of(JOBS.evaluated),
    params:
        part=JOBS.part("head", "key", "evaluation"),
    shell:
        "python -m pipeline.gpu --n {resources.gpu} --"
        " python -m pipeline --cores {threads} evaluate {wildcards.head} --params {params.part} 2>&1 | tee {log}"


rule mine:
    input:
        manifests=JOBS.text_manifests,
        shards=JOBS.text_shards,
        code=JOBS.evaluation_code,
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
        head=JOBS.mined(),
        key=JOBS.scored_alone(),
    conda:
        "../../environment.yml"
    params:
        part=JOBS.part("head", "key"),
    shell:
        "python -m pipeline mine {wildcards.head} --params {params.part} 2>&1 | tee {log}"


# What is arithmetic on caches does not pay for a process a variant.
for name, runs in PLAN.swept.items():

    rule:
        name:
            f"sweep_{name}"
        input:
            manifests=JOBS.of_runs(JOBS.manifests_of, runs),
            shards=JOBS.of_runs(JOBS.shards_of, runs),
            code=PLAN.code(runs[0].config.task, "evaluate"),
        output:
            [run.result_file for run in runs],
        log:
            f"logs/sweep/{name}.log",
        benchmark:
            f"logs/sweep/{name}.tsv"
        conda:
            "../../environment.yml"
        threads: JOBS.cores_of(runs)
        resources:
            gpu=PLAN.evaluation_gpus,
            mem_mb=JOBS.memory_of(runs),
        params:
            part=shlex.quote(PLAN.part(ablation=name)),
            ablation=name,
            chosen=" ".join(f"{run.key}/{run.evaluation}" for run in runs),
        shell:
            "python -m pipeline.gpu --n {resources.gpu} --"
            " python -m pipeline --cores {threads} sweep {params.ablation} {params.chosen} --params {params.part} 2>&1 | tee {log}"


# What a classifier's result stands beside: a linear probe of each of its inputs, which is minutes of a process at most.
for result, runs in PLAN.probed.items():

    rule:
        name:
            f"baselines_{result}"
        input:
            manifests=JOBS.of_runs(JOBS.manifests_of, runs),
            shards=JOBS.of_runs(JOBS.shards_of, runs),
            code=PLAN.code(runs[0].config.task, "evaluate"),
        output:
            [run.result_file for run in runs],
        log:
            f"logs/baselines/{result}.log",
        benchmark:
            f"logs/baselines/{result}.tsv"
        conda:
            "../../environment.yml"
        threads: JOBS.cores_of(runs)
        resources:
            gpu=PLAN.evaluation_gpus,
            mem_mb=JOBS.memory_of(runs),
        params:
            part=shlex.quote(PLAN.probing(result)),
            head=runs[0].head,
        shell:
            "python -m pipeline.gpu --n {resources.gpu} --"
            " python -m pipeline --cores {threads} baselines {params.head} --probes --params {params.part} 2>&1 | tee {log}"

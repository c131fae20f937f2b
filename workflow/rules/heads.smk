"""Stage 2: heads from caches alone. A run's folder is named by its content, so ablations and branches share it.
Below it each evaluation has one: a training serves many. Runs that only ablations ask for are made several a job, whose
output is a mark: if it ends half-way, the runs that it finished stay.
"""


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
        head=JOBS.trained_alone(),
    conda:
        "../../environment.yml"
    threads: JOBS.cores_to_train(JOBS.trained)
    resources:
        gpu=PLAN.gpus,
        mem_mb=JOBS.memory_to_train(JOBS.trained),
    params:
        part=JOBS.part("head", "key"),
        launcher=PLAN.launcher,
    shell:
        "{params.launcher}python -m pipeline.gpu --n {resources.gpu} --"
        " python -m pipeline --cores {threads} train {wildcards.head} --params {params.part} 2>&1 | tee {log}"


# What a job of several trainings gives to those that wait for one of them. Runs nothing.
rule trained:
    input:
        JOBS.trained_in,
    output:
        "runs/{head}/{key}/run.json",
    wildcard_constraints:
        head=JOBS.trained_together(),


rule train_runs:
    input:
        manifests=JOBS.of_runs(JOBS.manifests_of, JOBS.runs_to_train),
        shards=JOBS.of_runs(JOBS.shards_of, JOBS.runs_to_train),
    output:
        temp(touch("logs/train/{head}/{runs}.done")),
    log:
        "logs/train/{head}/{runs}.log",
    benchmark:
        "logs/train/{head}/{runs}.tsv"
    conda:
        "../../environment.yml"
    threads: JOBS.cores_to_train(JOBS.runs_to_train)
    resources:
        gpu=PLAN.gpus,
        mem_mb=JOBS.memory_to_train(JOBS.runs_to_train),
    params:
        part=JOBS.rows_part(JOBS.runs_to_train),
        runs=JOBS.keys_to_train,
    shell:
        "python -m pipeline.gpu --n {resources.gpu} --"
        " python -m pipeline --cores {threads} train {wildcards.head} {params.runs} --params {params.part} 2>&1 | tee {log}"


rule evaluate:
    input:
        run=JOBS.made,
        manifests=JOBS.evaluation_manifests,
        shards=JOBS.evaluation_shards,
        code=JOBS.evaluation_code,
    output:
        "runs/{head}/{key}/{evaluation}/result.json",
    log:
        "logs/evaluate/{head}-{key}-{evaluation}.log",
    benchmark:
        "logs/evaluate/{head}-{key}-{evaluation}.tsv"
    wildcard_constraints:
        head=JOBS.evaluated_alone(),
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


# As `trained`, of evaluations.
rule evaluated:
    input:
        JOBS.evaluated_in,
    output:
        "runs/{head}/{key}/{evaluation}/result.json",
    wildcard_constraints:
        head=JOBS.evaluated_together(),


rule evaluate_runs:
    input:
        runs=JOBS.trained_before,
        manifests=JOBS.of_runs(JOBS.manifests_of, JOBS.runs_to_evaluate, "evaluate"),
        shards=JOBS.of_runs(JOBS.shards_of, JOBS.runs_to_evaluate, "evaluate"),
        code=JOBS.code_of(JOBS.runs_to_evaluate),
    output:
        temp(touch("logs/evaluate/{head}/{runs}.done")),
    log:
        "logs/evaluate/{head}/{runs}.log",
    benchmark:
        "logs/evaluate/{head}/{runs}.tsv"
    conda:
        "../../environment.yml"
    threads: JOBS.cores_of(JOBS.runs_to_evaluate)
    resources:
        gpu=PLAN.evaluation_gpus,
        mem_mb=JOBS.memory_of(JOBS.runs_to_evaluate),
    params:
        part=JOBS.rows_part(JOBS.runs_to_evaluate),
        runs=JOBS.keys_to_evaluate,
    shell:
        "python -m pipeline.gpu --n {resources.gpu} --"
        " python -m pipeline --cores {threads} evaluate {wildcards.head} {params.runs} --params {params.part} 2>&1 | tee {log}"


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

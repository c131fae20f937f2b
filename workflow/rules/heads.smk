"""Stage 2: heads from caches alone. A run's folder is named by its content, so ablations and branches share it.
Below it each evaluation has one: a training serves many. Runs that only ablations ask for are made several a job, whose
output is a mark: if it ends half-way, the runs that it finished stay.
"""


rule train:
    input:
        manifest=SEVERAL.run_manifest,
        shards=READS.run_shards,
    output:
        "runs/{head}/{key}/run.json",
    log:
        "logs/train/{head}-{key}.log",
    benchmark:
        "logs/train/{head}-{key}.tsv"
    wildcard_constraints:
        head=SEVERAL.trained_alone(),
    conda:
        "../../environment.yml"
    threads: NEEDS.cores_to_train(RESULTS.trained)
    resources:
        gpu=NEEDS.gpus,
        mem_mb=NEEDS.memory_to_train(RESULTS.trained),
    params:
        part=READS.part("head", "key"),
        launcher=NEEDS.launcher,
    shell:
        "{params.launcher}python -m pipeline.gpu --n {resources.gpu} --"
        " python -m pipeline --cores {threads} train {wildcards.head} --params {params.part} 2>&1 | tee {log}"


# What a job of several trainings gives to those that wait for one of them. Runs nothing.
rule trained:
    input:
        SEVERAL.trained_in,
    output:
        "runs/{head}/{key}/run.json",
    wildcard_constraints:
        head=SEVERAL.trained_together(),


rule train_runs:
    input:
        manifests=READS.of_runs(READS.manifests_of, SEVERAL.runs_to_train),
        shards=READS.of_runs(READS.shards_of, SEVERAL.runs_to_train),
    output:
        temp(touch("logs/train/{head}/{runs}.done")),
    log:
        "logs/train/{head}/{runs}.log",
    benchmark:
        "logs/train/{head}/{runs}.tsv"
    conda:
        "../../environment.yml"
    threads: NEEDS.cores_to_train(SEVERAL.runs_to_train)
    resources:
        gpu=NEEDS.gpus,
        mem_mb=NEEDS.memory_to_train(SEVERAL.runs_to_train),
    params:
        part=SEVERAL.rows_part(SEVERAL.runs_to_train),
        runs=SEVERAL.keys_to_train,
    shell:
        "python -m pipeline.gpu --n {resources.gpu} --"
        " python -m pipeline --cores {threads} train {wildcards.head} {params.runs} --params {params.part} 2>&1 | tee {log}"


rule evaluate:
    input:
        run=SEVERAL.made,
        manifests=READS.evaluation_manifests,
        shards=READS.evaluation_shards,
        code=RESULTS.evaluation_code,
    output:
        "runs/{head}/{key}/{evaluation}/result.json",
    log:
        "logs/evaluate/{head}-{key}-{evaluation}.log",
    benchmark:
        "logs/evaluate/{head}-{key}-{evaluation}.tsv"
    wildcard_constraints:
        head=SEVERAL.evaluated_alone(),
        key=RESULTS.scored_alone(),
    conda:
        "../../environment.yml"
    threads: NEEDS.cores_of(RESULTS.evaluated)
    resources:
        gpu=NEEDS.evaluation_gpus,
        mem_mb=NEEDS.memory_of(RESULTS.evaluated),
    params:
        part=READS.part("head", "key", "evaluation"),
    shell:
        "python -m pipeline.gpu --n {resources.gpu} --"
        " python -m pipeline --cores {threads} evaluate {wildcards.head} --params {params.part} 2>&1 | tee {log}"


# As `trained`, of evaluations.
rule evaluated:
    input:
        SEVERAL.evaluated_in,
    output:
        "runs/{head}/{key}/{evaluation}/result.json",
    wildcard_constraints:
        head=SEVERAL.evaluated_together(),


rule evaluate_runs:
    input:
        runs=SEVERAL.trained_before,
        manifests=READS.of_runs(
            READS.manifests_of, SEVERAL.runs_to_evaluate, "evaluate"
        ),
        shards=READS.of_runs(READS.shards_of, SEVERAL.runs_to_evaluate, "evaluate"),
        code=SEVERAL.code_of(SEVERAL.runs_to_evaluate),
    output:
        temp(touch("logs/evaluate/{head}/{runs}.done")),
    log:
        "logs/evaluate/{head}/{runs}.log",
    benchmark:
        "logs/evaluate/{head}/{runs}.tsv"
    conda:
        "../../environment.yml"
    threads: NEEDS.cores_of(SEVERAL.runs_to_evaluate)
    resources:
        gpu=NEEDS.evaluation_gpus,
        mem_mb=NEEDS.memory_of(SEVERAL.runs_to_evaluate),
    params:
        part=SEVERAL.rows_part(SEVERAL.runs_to_evaluate),
        runs=SEVERAL.keys_to_evaluate,
    shell:
        "python -m pipeline.gpu --n {resources.gpu} --"
        " python -m pipeline --cores {threads} evaluate {wildcards.head} {params.runs} --params {params.part} 2>&1 | tee {log}"


rule mine:
    input:
        manifests=READS.text_manifests,
        shards=READS.text_shards,
        code=RESULTS.evaluation_code,
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
        head=RESULTS.mined(),
        key=RESULTS.scored_alone(),
    conda:
        "../../environment.yml"
    params:
        part=READS.part("head", "key"),
    shell:
        "python -m pipeline mine {wildcards.head} --params {params.part} 2>&1 | tee {log}"


# What is arithmetic on caches does not pay for a process a variant.
for name, runs in PLAN.swept.items():

    rule:
        name:
            f"sweep_{name}"
        input:
            manifests=READS.of_runs(READS.manifests_of, runs),
            shards=READS.of_runs(READS.shards_of, runs),
            code=code.of_task(runs[0].config.task, "evaluate"),
        output:
            [run.result_file for run in runs],
        log:
            f"logs/sweep/{name}.log",
        benchmark:
            f"logs/sweep/{name}.tsv"
        conda:
            "../../environment.yml"
        threads: NEEDS.cores_of(runs)
        resources:
            gpu=NEEDS.evaluation_gpus,
            mem_mb=NEEDS.memory_of(runs),
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
            manifests=READS.of_runs(READS.manifests_of, runs),
            shards=READS.of_runs(READS.shards_of, runs),
            code=code.of_task(runs[0].config.task, "evaluate"),
        output:
            [run.result_file for run in runs],
        log:
            f"logs/baselines/{result}.log",
        benchmark:
            f"logs/baselines/{result}.tsv"
        conda:
            "../../environment.yml"
        threads: NEEDS.cores_of(runs)
        resources:
            gpu=NEEDS.evaluation_gpus,
            mem_mb=NEEDS.memory_of(runs),
        params:
            part=shlex.quote(PLAN.probing(result)),
            head=runs[0].head,
        shell:
            "python -m pipeline.gpu --n {resources.gpu} --"
            " python -m pipeline --cores {threads} baselines {params.head} --probes --params {params.part} 2>&1 | tee {log}"

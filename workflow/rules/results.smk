"""The numbers people read, and their pictures. Cheap: they take params and code as plain inputs, so a clone is never stale."""


rule result:
    input:
        result=RESULTS.result_file,
        baselines=RESULTS.baselines,
        manifests=RESULTS.shown_manifests,
        params=READS.params_for("results/{result}.json"),
        code=RESULTS.report_code,
    output:
        json=report(
            "results/{result}.json",
            category="Results",
            labels={"result": "{result}", "kind": "numbers"},
        ),
        # What is in it is the task's matter.
        report=report(
            directory("results/{result}/report"),
            patterns=["pictures/{picture}.png"],
            category="Results",
            labels={"result": "{result}", "kind": "{picture}"},
        ),
    log:
        "logs/result/{result}.log",
    benchmark:
        "logs/result/{result}.tsv"
    conda:
        "../../environment.yml"
    params:
        evaluation=subpath(input.result, parent=True),
        looking=RESULTS.looking,
        beside=RESULTS.beside,
    shell:
        "python -m pipeline report {params.evaluation} {output.json} {params.looking} {params.beside} 2>&1 | tee {log}"


# Why a result is what it is: opens stores and videos.
rule explain:
    input:
        result=RESULTS.result_file,
        manifests=READS.of_runs(READS.manifests_of, RESULTS.shown),
        shards=READS.of_runs(READS.shards_of, RESULTS.shown),
        code=RESULTS.explanation_code,
    output:
        report(
            directory("results/{result}/explanation"),
            patterns=["pictures/{picture}.png"],
            category="Explanation",
            labels={"result": "{result}", "kind": "{picture}"},
        ),
    log:
        "logs/explain/{result}.log",
    benchmark:
        "logs/explain/{result}.tsv"
    conda:
        "../../environment.yml"
    threads: NEEDS.cores_of(RESULTS.shown)
    resources:
        gpu=NEEDS.evaluation_gpus,
        mem_mb=NEEDS.memory_of(RESULTS.shown),
    params:
        head=lambda wildcards: PLAN.results[wildcards.result].head,
        part=RESULTS.of_result(READS.part("head", "key", "evaluation")),
    shell:
        "python -m pipeline.gpu --n {resources.gpu} --"
        " python -m pipeline --cores {threads} explain {params.head} --out results/{wildcards.result} --params {params.part} 2>&1 | tee {log}"


# A task says where its tables lie, and what is drawn beside them.
for task in TASKS.values():

    rule:
        name:
            f"ablation_{task.name}"
        input:
            results=RESULTS.ablation_results,
            params=READS.params_for(f"{task.folder}/{{ablation}}.json", READS.study_of),
            code=[
                *code.sources("reports/ablation.py", "tasks"),
                *code.of_task(task.name, "columns"),
            ],
        output:
            multiext(f"{task.folder}/{{ablation}}", json=".json", csv=".csv", md=".md"),
            pictures=[
                report(
                    f"{task.folder}/{{ablation}}_{ending}.png",
                    category="Ablations",
                    labels={"ablation": "{ablation}", "kind": ending},
                )
                for ending in task.compared
            ],
        log:
            f"logs/ablation/{{ablation}}.log",
        benchmark:
            f"logs/ablation/{{ablation}}.tsv"
        wildcard_constraints:
            ablation=RESULTS.ablations(task),
        conda:
            "../../environment.yml"
        params:
            part=READS.part("ablation"),
            out=subpath(output.json, parent=True),
        shell:
            "python -m pipeline ablation {wildcards.ablation} --params {params.part} --out {params.out} 2>&1 | tee {log}"


# One process for all trials: one waits for those before it. A trial is a run, so a search that is killed goes on.
rule search:
    input:
        manifests=READS.search_manifests,
        shards=READS.search_shards,
        params=READS.params_for("results/searches/{search}.json", READS.study_of_search),
        code=code.sources("search.py", "reports/search.py"),
    output:
        multiext("results/searches/{search}", json=".json", csv=".csv", md=".md"),
        picture=report(
            "results/searches/{search}.png",
            category="Searches",
            labels={"search": "{search}"},
        ),
    log:
        "logs/search/{search}.log",
    benchmark:
        "logs/search/{search}.tsv"
    wildcard_constraints:
        search=RESULTS.searches(),
    conda:
        "../../environment.yml"
    threads: NEEDS.cores_of(RESULTS.tried)
    resources:
        gpu=NEEDS.evaluation_gpus,
        mem_mb=NEEDS.memory_of(RESULTS.tried),
    params:
        part=READS.part("search"),
        key=RESULTS.search_key,
    shell:
        "python -m pipeline.gpu --n {resources.gpu} --"
        " python -m pipeline --cores {threads} search {wildcards.search} --params {params.part} 2>&1 | tee {log}"


rule claims:
    input:
        results=RESULTS.claimed_results,
        params=READS.params_for("results/claims.json", READS.every_study),
        code=code.sources("reports/claims.py"),
    output:
        json="results/claims.json",
        md=report("results/claims.md", category="Claims"),
    log:
        "logs/claims.log",
    benchmark:
        "logs/claims.tsv"
    conda:
        "../../environment.yml"
    params:
        document=shlex.quote(PLAN.document),
    shell:
        "python -m pipeline claims --params {params.document} 2>&1 | tee {log}"


# Reads small files alone; which of them is known where Snakemake was called, so there it runs.
rule page:
    input:
        results=RESULTS.page_results,
        params=READS.params_for(PAGE, READS.every_study),
        code=[
            *code.sources("reports", "tasks"),
            *code.page_files(),
        ],
    output:
        report(PAGE, category="Report"),
    log:
        "logs/page.log",
    benchmark:
        "logs/page.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    params:
        document=shlex.quote(PLAN.document),
        snakemake=shlex.quote(RESULTS.snakemake_command()),
    shell:
        "python -m pipeline page --params {params.document} --out {output} --snakemake {params.snakemake} 2>&1 | tee {log}"

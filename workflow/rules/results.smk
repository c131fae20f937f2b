"""The numbers people read, and their pictures. Cheap: they take params and code as plain inputs, so a clone is never stale."""


rule result:
    input:
        result=result_file,
        params=params_for("results/{result}.json"),
        code=REPORT_CODE,
    output:
        **published(confusion="confusion matrix", training="training curve"),
    log:
        "logs/result/{result}.log",
    benchmark:
        "logs/result/{result}.tsv"
    wildcard_constraints:
        result=results_of("classification"),
    conda:
        "../../environment.yml"
    params:
        evaluation=subpath(input.result, parent=True),
        looking="",
    shell:
        "python -m pipeline report {params.evaluation} {output.json} {params.looking} 2>&1 | tee {log}"


# Timelines stand beside frames, where there are videos.
use rule result as segmentation_result with:
    input:
        result=result_file,
        manifest=of_result(run_manifest),
        params=params_for("results/{result}.json"),
        code=[*REPORT_CODE, *PREDICTION_CODE],
    output:
        **published(**TIMELINES),
        predictions=directory("results/{result}_predictions"),
    wildcard_constraints:
        result=results_of("segmentation"),
    params:
        evaluation=subpath(input.result, parent=True),
        looking=of_result(looking_at_videos),


use rule segmentation_result as zeroshot_result with:
    output:
        **published(gamma="seen and unseen accuracy over γ", **TIMELINES),
        predictions=directory("results/{result}_predictions"),
    wildcard_constraints:
        result=results_of("zeroshot"),


use rule result as alignment_result with:
    output:
        **published(
            confusion="confusion matrix",
            attention="maps, gates and where tokens have their energy",
            retrieval="retrieval",
            training="training curve",
        ),
    wildcard_constraints:
        result=results_of("alignment"),


use rule result as ood_result with:
    output:
        **published(scores="histograms of scores", **{"lambda": "figures over λ"}),
        table="results/{result}.md",
    wildcard_constraints:
        result=results_of("ood"),


rule overlays:
    input:
        result=result_file,
        manifests=of_result(every_manifest),
        shards=of_result(run_shards),
        code=[*REPORT_CODE, *PREDICTION_CODE],
    output:
        report(
            "results/{result}_overlays.png",
            category="Results",
            labels={"result": "{result}", "kind": "what is seen in pictures"},
        ),
    log:
        "logs/overlays/{result}.log",
    benchmark:
        "logs/overlays/{result}.tsv"
    wildcard_constraints:
        result=results_of("ood"),
    conda:
        "../../environment.yml"
    resources:
        gpu=PLAN.evaluation_gpus,
    params:
        head=lambda wildcards: PLAN.results[wildcards.result].head,
        part=of_result(part("head", "key", "evaluation")),
    shell:
        "python -m pipeline.gpu --n {resources.gpu} --"
        " python -m pipeline overlays {params.head} {output} --params {params.part} 2>&1 | tee {log}"


rule ablation:
    input:
        results=ablation_results,
        params=params_for(ablation_table, study_of),
        code=REPORT_CODE,
    output:
        multiext("results/ablations/{ablation}", json=".json", csv=".csv", md=".md"),
    log:
        "logs/ablation/{ablation}.log",
    benchmark:
        "logs/ablation/{ablation}.tsv"
    wildcard_constraints:
        ablation=ablations_of("classification", "segmentation", "ood"),
    conda:
        "../../environment.yml"
    params:
        part=part("ablation"),
        out=subpath(output.json, parent=True),
    shell:
        "python -m pipeline ablation {wildcards.ablation} --params {params.part} --out {params.out} 2>&1 | tee {log}"


use rule ablation as zeroshot_ablation with:
    output:
        multiext("results/ablations/{ablation}", json=".json", csv=".csv", md=".md"),
        curves=report(
            "results/ablations/{ablation}_seen_unseen.png",
            category="Ablations",
            labels={"ablation": "{ablation}", "kind": "seen over unseen accuracy"},
        ),
    wildcard_constraints:
        ablation=ablations_of("zeroshot"),


# Where the head's specification wants it.
use rule ablation as alignment_ablation with:
    output:
        multiext("results/{ablation}", json=".json", csv=".csv", md=".md"),
    wildcard_constraints:
        ablation=ablations_of("alignment"),


rule claims:
    input:
        results=claimed_results,
        params=params_for("results/claims.json", every_study),
        code=REPORT_CODE,
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
        results=page_results,
        params=params_for(PAGE, every_study),
        code=PAGE_CODE,
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
        snakemake=shlex.quote(snakemake_command()),
    shell:
        "python -m pipeline page --params {params.document} --out {output} --snakemake {params.snakemake} 2>&1 | tee {log}"

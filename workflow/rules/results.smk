"""The numbers people read, and their pictures. Cheap: they take params and code as plain inputs, so a clone is never stale."""


rule result:
    input:
        result=result_file,
        params=PARAMS_FILES,
        code=REPORT_CODE,
    output:
        json=report(
            "results/{result}.json",
            category="Results",
            labels={"result": "{result}", "kind": "numbers"},
        ),
        confusion=report(
            "results/{result}_confusion.png",
            category="Results",
            labels={"result": "{result}", "kind": "confusion matrix"},
        ),
        curve=report(
            "results/{result}_training.png",
            category="Results",
            labels={"result": "{result}", "kind": "training curve"},
        ),
    log:
        "logs/result/{result}.log",
    benchmark:
        "logs/result/{result}.tsv"
    wildcard_constraints:
        result=results_of("classification"),
    conda:
        "../../environment.yml"
    params:
        run=lambda wildcards, input: input.result.rsplit("/", 1)[0],
    shell:
        "python -m pipeline report {params.run} {output.json} 2>&1 | tee {log}"


rule segmentation_result:
    input:
        result=result_file,
        params=PARAMS_FILES,
        code=REPORT_CODE,
    output:
        json=report(
            "results/{result}.json",
            category="Results",
            labels={"result": "{result}", "kind": "numbers"},
        ),
        worst=report(
            "results/{result}_worst.png",
            category="Results",
            labels={"result": "{result}", "kind": "worst videos"},
        ),
        best=report(
            "results/{result}_best.png",
            category="Results",
            labels={"result": "{result}", "kind": "best videos"},
        ),
        curve=report(
            "results/{result}_training.png",
            category="Results",
            labels={"result": "{result}", "kind": "training curve"},
        ),
        predictions=directory("results/{result}_predictions"),
    log:
        "logs/result/{result}.log",
    benchmark:
        "logs/result/{result}.tsv"
    wildcard_constraints:
        result=results_of("segmentation"),
    conda:
        "../../environment.yml"
    params:
        run=lambda wildcards, input: input.result.rsplit("/", 1)[0],
    shell:
        "python -m pipeline report {params.run} {output.json} 2>&1 | tee {log}"


rule ablation:
    input:
        results=ablation_results,
        params=PARAMS_FILES,
        code=REPORT_CODE,
    output:
        multiext("results/ablations/{ablation}", json=".json", csv=".csv", md=".md"),
    log:
        "logs/ablation/{ablation}.log",
    benchmark:
        "logs/ablation/{ablation}.tsv"
    conda:
        "../../environment.yml"
    params:
        part=part("ablation"),
    shell:
        "python -m pipeline ablation {wildcards.ablation} --params {params.part} 2>&1 | tee {log}"

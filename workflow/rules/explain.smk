"""Why a result is what it is: feature space, importance of inputs, attention. One job a result; opens stores and videos."""


rule explain:
    input:
        result=result_file,
        manifests=of_result(every_manifest),
        shards=of_result(run_shards),
        code=EXPLANATION_CODE,
    output:
        **explained(),
    log:
        "logs/explain/{result}.log",
    benchmark:
        "logs/explain/{result}.tsv"
    wildcard_constraints:
        result=results_of("segmentation", "zeroshot", "alignment", "ood"),
    conda:
        "../../environment.yml"
    threads: PLAN.params.compute.threads
    resources:
        gpu=PLAN.evaluation_gpus,
    params:
        head=lambda wildcards: PLAN.results[wildcards.result].head,
        part=of_result(part("head", "key", "evaluation")),
    shell:
        "python -m pipeline.gpu --n {resources.gpu} --"
        " python -m pipeline explain {params.head} --out results/{wildcards.result} --params {params.part} 2>&1 | tee {log}"


use rule explain as explain_recognition with:
    output:
        **explained(
            attention="attention over frames", class_attention="attention by class"
        ),
    wildcard_constraints:
        result=results_of("classification"),

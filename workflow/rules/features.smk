"""Stage 1: frozen backbones into stores. A job makes a range of shards; each is whole as soon as its manifest is there.
What a job declares is a mark, not these manifests: if it ends half-way, the shards that it finished stay.
"""


# What a range of shards gives to those that wait for one of them. Runs nothing.
rule shard:
    input:
        manifest=READS.shard_source,
        made=READS.made_in,
    output:
        "features/{dataset}/{feature}-{key}/shard-{shard}.json",


rule extract:
    input:
        manifest=READS.range_manifest,
        reads=READS.range_reads,
    output:
        temp(touch("logs/extract/{dataset}/{feature}-{key}/shard-{shards}.done")),
    log:
        "logs/extract/{dataset}/{feature}-{key}/shard-{shards}.log",
    benchmark:
        "logs/extract/{dataset}/{feature}-{key}/shard-{shards}.tsv"
    wildcard_constraints:
        feature=READS.extracted_alone(),
    conda:
        "../../environment.yml"
    threads: NEEDS.cores_to_extract()
    resources:
        gpu=NEEDS.feature_gpus,
        mem_mb=NEEDS.memory_to_extract(),
    params:
        part=READS.part("dataset", "feature"),
    shell:
        "python -m pipeline.gpu --n {resources.gpu} --"
        " python -m pipeline --cores {threads} extract {wildcards.dataset} {wildcards.feature} --shards {wildcards.shards}"
        " --params {params.part} 2>&1 | tee {log}"


for group in PLAN.params.fused:

    rule:
        name:
            f"extract_{'_and_'.join(group)}"
        input:
            manifest=READS.range_manifest,
        output:
            temp(
                touch(
                    f"logs/extract/{{dataset}}/{'_and_'.join(group)}/shard-{{shards}}.done"
                )
            ),
        log:
            f"logs/extract/{{dataset}}/{'_and_'.join(group)}/shard-{{shards}}.log",
        benchmark:
            f"logs/extract/{{dataset}}/{'_and_'.join(group)}/shard-{{shards}}.tsv"
        conda:
            "../../environment.yml"
        threads: NEEDS.cores_to_extract(*group)
        resources:
            gpu=NEEDS.extraction_gpus(*group),
            mem_mb=NEEDS.memory_to_extract(*group),
        params:
            part=READS.part("dataset", features=group),
            features=" ".join(group),
        shell:
            "python -m pipeline.gpu --n {resources.gpu} --"
            " python -m pipeline --cores {threads} extract {wildcards.dataset} {params.features} --shards {wildcards.shards}"
            " --params {params.part} 2>&1 | tee {log}"


rule derive:
    input:
        manifest=READS.range_manifest,
        reads=READS.range_reads,
    output:
        temp(touch("logs/derive/{dataset}/{feature}-{key}/shard-{shards}.done")),
    log:
        "logs/derive/{dataset}/{feature}-{key}/shard-{shards}.log",
    benchmark:
        "logs/derive/{dataset}/{feature}-{key}/shard-{shards}.tsv"
    wildcard_constraints:
        feature=READS.derived(),
    conda:
        "../../environment.yml"
    threads: NEEDS.cores_to_extract()
    resources:
        gpu=NEEDS.feature_gpus,
        mem_mb=NEEDS.memory_to_extract(),
    params:
        part=READS.part("dataset", "feature"),
    shell:
        "python -m pipeline.gpu --n {resources.gpu} --"
        " python -m pipeline derive {wildcards.dataset} {wildcards.feature} --shards {wildcards.shards}"
        " --params {params.part} 2>&1 | tee {log}"

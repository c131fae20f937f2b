"""Heads: tensors in, tensors out. Each can be imported and tried in a notebook with random tensors; none knows a store.

A head is a folder here and a line below. Its class offers

    of(config, samples)   a new module: `config` as its model of params read it; `samples` has `classes`, names, and
                          `streams`, role -> `width` and, of tokens, `grid`
    logits(batch)         of a classifier, (B, C): `batch` has each role's tensor as float32, and `times` (B, T) in
                          seconds

docs/adding-a-head.md shows one of another package, which is one class with its options as `Config` in it.
"""

# Kind -> the model of what a person may choose of it. Imports nothing: params are read without a deep-learning library.
KINDS = {
    "clip_align": "pipeline.heads.clip_align.config:ClipAlignHead",
    "fact": "pipeline.heads.fact.config:FactHead",
    "fact_clip": "pipeline.heads.fact.config:FactClipHead",
    "gasm_cast": "pipeline.heads.gasm_cast.config:GasmCastHead",
    "negalign": "pipeline.heads.negalign.config:NegAlignHead",
    "probe": "pipeline.heads.probe.config:ProbeHead",
}

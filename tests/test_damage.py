"""A flip or a truncation in any file that a verb reads is noticed and named, or changes nothing.

Videos, pictures, maps and arrays of others are in tests/extraction/test_fuzz.py: one that is damaged fails one sample.
"""

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from pipeline.config import Dataset, Weights, canonical_json, keys, load_params, weights_digest
from pipeline.datasets import (
    read_annotations,
    read_looked_at,
    read_manifest,
    read_shards,
    shard_digests,
    write_manifest,
)
from pipeline.datasets.annotations import read_labels
from pipeline.datasets.standing import standing
from pipeline.digests import file_digest, sha256, write_json
from pipeline.evaluation import negatives
from pipeline.evaluation.negatives import ORIGIN, TABLE, read_negatives
from pipeline.plan import RENDERED, Plan
from pipeline.reports.alignment import read_attention
from pipeline.reports.files import read_history, read_predictions, read_result
from pipeline.reports.page.gather import _jobs, _json, _stores
from pipeline.runs import RUN, STATE, WEIGHTS, Run, complete, read_run
from pipeline.runs import standing as trained
from pipeline.store import FeatureStore
from pipeline.tables import read_frame, write_frame
from tests.datasets.layouts.test_mstcn import BUNDLES
from tests.datasets.layouts.test_mstcn import dataset as labelled
from tests.datasets.made_up import write_labelled, write_set
from tests.evaluations import leave
from tests.later import Later
from tests.store.conftest import Job
from tests.training.learnable import frame

checkpoints = Later("pipeline.backbones.checkpoints")
states = Later("pipeline.backbones.states")

PLACES, CUTS = 100, (0, 0.3, 0.9)  # flips of a file, and the shares of it that a truncation leaves
OUT = Path("results/x.json")


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        files: those to damage, one after the other.
        read: as the verbs do.
        free: what a person wrote, or what a key is computed from: it is another document then, by right.
        noticed: what `read` gives where it notices damage without an error.
    """

    files: list[Path]
    read: Callable[[], Any]
    free: bool = False
    noticed: Any = None


def params(root: Path) -> Kind:
    path = root / "params.yaml"
    path.write_text("compute: {device: cpu, threads: 2}\ndatasets:\n  set: {layout: texts, root: a.txt}\n")
    return Kind([path], lambda: load_params(str(path)).model_dump_json(), free=True)


def annotations_in_json(root: Path) -> Kind:
    write_set(root, train=["1", "2"], validation=["3"], test=["4"])
    dataset = Dataset(layout="ssv2", root=str(root))
    return Kind(sorted(root.glob("*.json")), lambda: read_annotations(dataset).to_json(), free=True)


def annotations_in_a_table(root: Path) -> Kind:
    path = root / "metadata.csv"
    path.write_text("img_id,img_filename,y,split,place,place_filename\n1,a/1.jpg,0,0,1,x\n2,a/2.jpg,1,1,0,x\n")
    dataset = Dataset(layout="waterbirds", root=str(root))
    return Kind([path], lambda: read_annotations(dataset).to_json(), free=True)


def labels_of_frames(root: Path) -> Kind:
    made = labelled(write_labelled(root / "set", BUNDLES))
    samples = read_annotations(made)["sample"].tolist()
    files = [path for path in (root / "set").rglob("*") if path.is_file()]
    return Kind(files, lambda: str((read_annotations(made).to_json(), read_labels(made, samples))), free=True)


def texts(root: Path) -> Kind:
    path = root / "classes.txt"
    path.write_text("a red disc\nein Kästchen\n", encoding="utf-8")
    return Kind([path], lambda: read_annotations(Dataset(layout="texts", root=str(path))).to_json(), free=True)


def weights_of_backbones(root: Path) -> Kind:
    path = root / "weights.safetensors"
    save_file({"a": torch.arange(4.0), "b": torch.ones(2, 2)}, path)
    return Kind(
        [path], lambda: (weights_digest(Weights(path=str(path))), str(states.read_state(path, "made"))), free=True
    )


def configuration_of_weights(root: Path) -> Kind:
    path = root / "config.json"
    path.write_text(json.dumps({"model_type": "dinov3_vit", "hidden_size": 96}))
    return Kind([path], lambda: str(checkpoints.read_json(path)), free=True)


def timings_of_snakemake(root: Path) -> Kind:
    path = root / "train" / "gasm_cast-0123456789.tsv"
    path.parent.mkdir()
    path.write_text("s\th:m:s\tmax_rss\tcpu_time\n90.5\t0:01:30\t512.0\t81.0\n")
    return Kind([path], lambda: _jobs(root).to_json(), free=True)


def digests_of_weights(root: Path) -> Kind:
    path = root / "large"
    path.write_bytes(bytes(keys.SMALL + 1))

    def read() -> str:
        keys._digest.cache_clear()
        return keys.remembered_digest(path)

    read()
    return Kind(list((root.parent / "cache").rglob("digests/*")), read)


def manifest(root: Path) -> Kind:
    path = root / "set" / "manifest.parquet"
    made = frame({"train": 3, "validation": 2})
    made.attrs["classes"] = sorted(set(made["label"]), reverse=True)
    write_manifest(made, path)

    def read() -> str:
        table = read_manifest(path)
        told = [table.to_json(), table.attrs, read_shards(path), shard_digests(path), read_looked_at(path)]
        return str(told)

    return Kind([path], read)


def stamp(root: Path) -> Kind:
    (root / "a.txt").write_text("a\nb\n")
    dataset = Dataset(layout="texts", root=str(root / "a.txt"))
    write_manifest(frame({"train": 1}), root / "manifest.parquet")

    def read() -> Any:
        return standing("set", dataset, root / "manifest.parquet", {}, folder=root / "looks")

    read()
    read()
    return Kind([root / "looks" / "set"], read)


def rendered(root: Path) -> Kind:
    document = {"toyworld": {"classes": 3}, "datasets": {"set": {"layout": "ssv2", "root": str(root)}}}
    plan = Plan(load_params(json.dumps({"datasets": {**document["datasets"]}})))
    (root / RENDERED).write_text(canonical_json(plan.params.rendering("set")))
    return Kind([root / RENDERED], lambda: plan.rendered_otherwise("set"), noticed=True)


def run(root: Path) -> Kind:
    save_file({"a": torch.arange(8.0)}, root / WEIGHTS)
    pd.DataFrame({"epoch": [1, 2], "train_loss": [2.0, 1.0]}).to_csv(root / "history.csv", index=False)
    digests = {"weights": file_digest(root / WEIGHTS), "history.csv": file_digest(root / "history.csv")}
    complete(root, "identity", digests | {"classes": ["a", "γ"]})
    # Checkpoints are what a resumed training reads: see tests/training/test_checkpoints.py.
    files = [root / name for name in (RUN, WEIGHTS, "history.csv")]
    return Kind(files, lambda: str((read_run(root), read_history(root))))


def complete_run(root: Path) -> Kind:
    """As a training looks at it that may be complete already."""
    run(root)
    files = [root / name for name in (STATE, WEIGHTS, "history.csv")]
    return Kind(files, lambda: trained(root, "identity", lambda line: None), noticed={})


def evaluation(root: Path) -> Kind:
    np.savez(root / "attention.npz", token_map=np.arange(12.0).reshape(1, 3, 2, 2), sample=np.array(["a"]))
    table = pd.DataFrame({"sample": ["a", "b"], "label": ["x", "y"], "probabilities": [[0.5, 0.5], [0.25, 0.75]]})
    leave(root, {"task": "alignment", "accuracy": 50.0, "ci95": [12.5, 87.5]}, table)

    def read() -> str:
        result = read_result(root, OUT)
        arrays = {name: of.tolist() for name, of in read_attention(root, OUT, result).items()}
        return str((result, read_predictions(root, OUT, result).to_json(), arrays))

    return Kind([root / name for name in ("result.json", "predictions.parquet", "attention.npz")], read)


def negative_words(root: Path) -> Kind:
    (root / TABLE).write_text("word,kind,score,r,role\nfish,noun,0.25,0.5,object\nsea,noun,0.125,-1.5,background\n")
    write_json(root / ORIGIN, {TABLE: sha256((root / TABLE).read_bytes()), "words": "0" * 64})
    return Kind([root / TABLE, root / ORIGIN], lambda: str(read_negatives(Run(None, "negalign", root, {}, root))))


def documents(root: Path) -> Kind:
    """The quality of a data set, the table of an ablation, claims, what explains a result."""
    write_json(root / "quality.json", {"samples": 3, "fps": {"min": 12.5}, "classes": ["a", "β"], "none": None})
    write_json(root / "claims.json", {"b": {"holds": True}, "a": {"holds": False}}, ordered=True)
    write_json(root / "x_features.json", {"x": [0.125, 1.5], "samples": ["a"]}, indent=None)
    files = [root / name for name in ("quality.json", "claims.json", "x_features.json")]
    return Kind(files, lambda: str([_json(path) for path in files]))


def another_table(root: Path) -> Kind:
    write_frame(pd.DataFrame({"a": np.arange(50), "b": [f"text {i}" for i in range(50)]}), root / "t.parquet")
    return Kind([root / "t.parquet"], lambda: read_frame(root / "t.parquet", "make it again").to_json())


def store_of(kind: str) -> Callable[[Path], Kind]:
    def make(root: Path) -> Kind:
        folder = root / "store"
        Job(folder / "shard-000", kind=kind).run()

        def shown() -> str:
            store = FeatureStore(folder, verify=True)
            read = store.read_ragged if kind == "ragged" else store.read
            told = {name: [of.tolist() for of in read(list(store.samples), name)] for name in store.fields}
            row = next(_stores(root.parent, pd.DataFrame(columns=["of", "seconds"])))._replace(bytes=0)
            return str((store.samples, store.failed, store.provenance, told, row))

        files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
        return Kind(files, shown)

    return make


KINDS = {
    **{
        make.__name__: make
        for make in (
            params,
            annotations_in_json,
            annotations_in_a_table,
            labels_of_frames,
            texts,
            weights_of_backbones,
            configuration_of_weights,
            timings_of_snakemake,
            digests_of_weights,
            manifest,
            stamp,
            rendered,
            run,
            complete_run,
            evaluation,
            negative_words,
            documents,
            another_table,
        )
    },
    "store_zarr": store_of("zarr"),
    "store_hdf5": store_of("ragged"),
}


def damaged(content: bytes, seed: str) -> Iterator[tuple[str, bytes]]:
    """Flips of one bit, here and there and in the last bytes, and truncations."""
    draw = random.Random(seed)
    places = {draw.randrange(len(content)) for _ in range(PLACES)} | {0, len(content) - 1, max(0, len(content) - 9)}
    for place in sorted(places):
        bit = draw.randrange(8)
        yield f"bit {bit} of byte {place}", content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
    for share in CUTS:
        yield f"the first {share:.0%}", content[: int(share * len(content))]


@pytest.mark.parametrize("kind", KINDS)
def test_a_flip_or_a_truncation_is_noticed_and_named_or_changes_nothing(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(keys, "SETTLED_NS", 0)
    monkeypatch.setattr(negatives, "origin", lambda run: {"words": "0" * 64})
    root = tmp_path / "made"
    root.mkdir()
    made = KINDS[kind](root)
    expected, noticed, silent = made.read(), 0, []
    assert made.files and made.read() == expected
    for file in made.files:
        content = file.read_bytes()
        for what, worse in damaged(content, file.name) if content else ():
            file.write_bytes(worse)
            try:
                found = made.read()
            except (ValueError, RuntimeError, OSError) as error:
                assert type(error).__module__.startswith("pipeline."), f"{file.name}, {what}: {error!r} is a traceback"
                assert made.free or file.name in str(error) or str(root) in str(error), f"{file.name}, {what}: {error}"
                noticed += 1
            else:
                noticed += found != expected and (made.free or found == made.noticed)
                if found != expected and not made.free and found != made.noticed:
                    silent.append(f"{file.name}, {what}")
        file.write_bytes(content)
    assert not silent, f"{len(silent)} are read as something else: {silent[:5]}"
    assert noticed or kind == "digests_of_weights"


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_an_exchanged_file_is_noticed_though_it_is_whole(tmp_path, names):
    """The predictions of one evaluation beside the result of another."""
    for name in "ab":
        table = pd.DataFrame({"sample": ["1", "2"], "label": ["x", "y"], "prediction": ["x", name]})
        leave(tmp_path / name, {"task": "classification", "top1": 0.5}, table)
    one, other = (tmp_path / name for name in names)
    os.replace(other / "predictions.parquet", one / "predictions.parquet")
    with pytest.raises(ValueError, match=rf"{names[0]}/predictions\.parquet is not the file that was written"):
        read_predictions(one, OUT, read_result(one, OUT))

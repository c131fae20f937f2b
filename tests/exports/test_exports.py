"""Claims about exports: what is written is what the store holds, it comes back as it was, and no sample is lost."""

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from permafrost.cli import app
from pipeline.config import feature_dir
from pipeline.datasets import read_manifest, write_manifest
from pipeline.digests import DIGEST, read_json
from pipeline.exports import EXPORTS, ExportError, export_store, table
from pipeline.exports import folder as code
from pipeline.store import FeatureStore, ShardWriter, StoreCorrupt, StoreMissing
from tests.extraction.small import params_of, run
from tests.permafrost.conftest import CLASSES, FAILED, FIELDS, IDS, KEYS, UNLABELLED, write_ucf
from tests.store.conftest import flip

FEATURES = list(FIELDS)


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Path:
    """features/ucf of 20 samples in three shards: tokens and vectors beside them, a vector, ragged rows; one failed."""
    return write_ucf(tmp_path_factory.mktemp("features") / "ucf")


def place(stores: Path, feature: str) -> Path:
    return stores / f"{feature}-{KEYS[feature]}"


def exported(stores: Path, feature: str, form: str, out: Path, lines: list[str] | None = None) -> Path:
    found = export_store(place(stores, feature), form, out, say=(lines if lines is not None else []).append)
    assert (found.samples, found.failed) == (19, {FAILED: "short: 3 of 30 frames"})
    return out


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file, but the lock."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def checksums(store: FeatureStore, field: str) -> dict[str, int]:
    """Sample -> crc32c of its bytes, as the manifests of the shards have it."""
    rows = [row for path in store.directory.glob("shard-*.json") for row in json.loads(path.read_bytes())["samples"]]
    return {row["sample"]: row["crc32c"][field] for row in rows if row["status"] == "ok"}


@pytest.mark.parametrize("form", ["npy", "npz", "webdataset"])
@pytest.mark.parametrize("feature", FEATURES)
def test_what_is_exported_and_imported_again_is_a_store_of_the_same_checksums(stores, tmp_path, feature, form):
    out = exported(stores, feature, form, tmp_path / "out")
    original, field = FeatureStore(place(stores, feature), verify=True), max(FIELDS[feature])
    shape, _ = FIELDS[feature][field]
    (tmp_path / "set").mkdir()
    told = read_json(out / "index.json", "")["samples"]
    lines = [f"{id},{of['split']},{of.get('label', '')}" for id, of in told.items() if of["split"] == "train"]
    (tmp_path / "set/table.csv").write_text("\n".join(["id,split,label", *lines]))
    content = {1: {"content": "vectors"}, 2: {"content": "rows", "fps": 12.0}, 3: {"content": "tokens"}}[len(shape)]
    if content["content"] == "tokens":
        content |= {"steps": 2, "grid": [2, 2]}
    source = {"extension": f".{field}.npy"} if form != "npz" else {"extension": ".npz", "array": field}
    source |= {"form": "webdataset" if form == "webdataset" else "files", "root": str(out)}
    mine = {"backbone": "imported", "width": shape[-1], "max_failed": 0.0, "lossy": "refuse"} | content | source
    params = params_of(tmp_path / "set", {"mine": mine}, layout="table", table="table.csv", videos=None)
    run(params, tmp_path / "features", None, "mine")
    back = FeatureStore(feature_dir(params, "small", "mine", tmp_path / "features"), verify=True)
    wanted = checksums(original, field)
    assert checksums(back, content["content"]) == {id: wanted[id] for id in back.samples} and len(back.samples) == 12
    meta = original.meta("v_001")
    assert back.meta("v_001") == ({"fps": 12.0} if "fps" in meta else {})
    name = {"npy": f"v_001.{field}.npy", "npz": "v_001.npz", "webdataset": "train-000000.tar"}[form]
    assert back.digest("v_001") == read_json(out / "index.json", "")["files"][name]["sha256"]


@pytest.mark.parametrize("form", EXPORTS)
def test_files_have_their_digests_samples_their_labels_and_failures_their_reasons(stores, tmp_path, form):
    out = exported(stores, "dinov3_patches", form, tmp_path)
    index = read_json(out / "index.json", "")
    for name, of in index["files"].items():
        content = (out / name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (of["bytes"], of["sha256"])
    assert index["provenance"] == FeatureStore(place(stores, "dinov3_patches")).provenance
    assert index["samples"]["v_001"] == {"times": [0.25, 0.75], "split": "train", "label": "bowling"}
    assert "label" not in index["samples"][UNLABELLED] and len(index["samples"]) == 19
    assert read_json(out / "failures.json", "") == {FAILED: "short: 3 of 30 frames"}
    here = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    others = {"index.json", "failures.json", "croissant.json"} | ({"README.md"} if form == "datasets" else set())
    assert {name for name in here if not name.startswith(".permafrost/")} == {*index["files"], *others}


def test_shards_of_tars_are_of_one_split_each_and_their_json_has_label_and_id(stores, tmp_path):
    out = exported(stores, "clip_image", "webdataset", tmp_path)
    names = [path.name for path in sorted(out.glob("*.tar"))]
    assert names == ["test-000001.tar", "test-000002.tar", "train-000000.tar", "train-000001.tar"]
    with tarfile.open(out / "train-000001.tar") as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}
    told = json.loads(members["v_009.json"])
    store = FeatureStore(place(stores, "clip_image"))
    assert told == {"id": "v_009", "digest": store.digest("v_009"), "times": [0.25, 0.75]} | {
        "split": "train",
        "label": "archery",
    }
    found = np.load(io.BytesIO(members["v_009.image_embed.npy"]))
    np.testing.assert_array_equal(found, store.read(["v_009"], "image_embed")[0])


# --- the table of `datasets` ------------------------------------------------------------------------------------------

# What `datasets` 5.2 says of the files: Array2D(shape=(None, 6), dtype="float16") and so on.
TYPES = {
    "dinov3_patches": {
        "cls": {"shape": [2, 8], "dtype": "float16", "_type": "Array2D"},
        "patch_tokens": {"shape": [2, 4, 8], "dtype": "float16", "_type": "Array3D"},
    },
    "clip_image": {
        "image_embed": {"feature": {"dtype": "float16", "_type": "Value"}, "length": 8, "_type": "Sequence"},
    },
    "i3d_frames": {"frames": {"shape": [None, 6], "dtype": "float16", "_type": "Array2D"}},
}


@pytest.mark.parametrize("feature", FEATURES)
def test_a_table_holds_what_the_store_holds_and_says_its_types_as_datasets_does(stores, tmp_path, feature, monkeypatch):
    monkeypatch.setattr(table, "GROUP", 100)  # bytes: several groups of rows
    out = exported(stores, feature, "datasets", tmp_path)
    store = FeatureStore(place(stores, feature), verify=True)
    seen, groups = [], []
    for split in ("train", "test"):
        for path in sorted((out / "data" / split).glob("*.parquet")):
            file = pq.ParquetFile(path)
            groups.append(file.num_row_groups)
            told = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
            assert {name: of for name, of in told.items() if name in FIELDS[feature]} == TYPES[feature]
            assert told["label"] == {"names": list(CLASSES), "_type": "ClassLabel"}
            for name, of in TYPES[feature].items():
                metadata = file.schema_arrow.field(name).metadata or {}
                kind = metadata.get(b"ARROW:extension:name", b"").decode().removeprefix("datasets.features.features.")
                assert kind == ("" if of["_type"] == "Sequence" else f"{of['_type']}ExtensionType")
            for row in file.read(use_threads=False).to_pylist():
                seen.append(row["id"])
                assert row["digest"] == store.digest(row["id"])
                number = int(row["id"][2:])
                assert row["label"] == (None if row["id"] == UNLABELLED else number % 3)
                assert (split == "train") == (number < 12)
                for name, (shape, dtype) in store.fields.items():
                    read = store.read_ragged if shape[0] is None else store.read
                    found = np.array(row[name], dtype)
                    np.testing.assert_array_equal(found, read([row["id"]], name)[0])
                noted = {"fps": 12.0} if feature == "i3d_frames" else {"times": [0.25, 0.75]}
                assert {name: row[name] for name in noted} == noted
    assert seen == [id for id in IDS if id != FAILED] and max(groups) > 1
    card = (out / "README.md").read_text()
    for split in ("train", "test"):
        assert f"  - split: {split}\n    path: data/{split}/*.parquet" in card


def test_labels_of_several_classes_targets_and_frames_are_columns_too(stores, tmp_path):
    folder = shutil.copytree(stores, tmp_path / "ucf")
    frame = read_manifest(folder / "manifest.parquet")
    frame["labels"] = pd.Series([["a", "b"] if number else [] for number in range(20)], dtype=object)
    frame["target"] = pd.Series([[0.5, 2.0]] * 20, dtype=object)
    frame["segments"] = pd.Series([[{"label": "b", "frames": 3}, {"label": "a", "frames": 1}]] * 20, dtype=object)
    frame["label"] = None
    frame.attrs |= {"classes": ["a", "b"], "class_lists": {}, "targets": ["x", "y"]}
    write_manifest(frame, folder / "manifest.parquet")
    out = exported(folder, "clip_image", "datasets", tmp_path / "out")
    file = pq.ParquetFile(out / "data/train/000000.parquet")
    told = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
    classes = {"names": ["a", "b"], "_type": "ClassLabel"}
    assert told["labels"] == {"feature": classes, "length": -1, "_type": "Sequence"} and "label" not in told
    assert told["segments"] == [{"label": classes, "frames": {"dtype": "int32", "_type": "Value"}}]
    first, second = file.read(use_threads=False).to_pylist()[:2]
    assert (first["labels"], second["labels"], first["target"]) == ([], [0, 1], [0.5, 2.0])
    assert first["segments"] == [{"label": 1, "frames": 3}, {"label": 0, "frames": 1}]


# --- croissant --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", EXPORTS)
def test_the_croissant_names_the_files_with_their_digests_and_the_columns(stores, tmp_path, form):
    store = place(stores, "i3d_frames")
    export_store(store, form, tmp_path, "https://spdx.org/licenses/MIT", "https://example.org/x", lambda line: None)
    told = json.loads((tmp_path / "croissant.json").read_text())
    assert told["conformsTo"] == "http://mlcommons.org/croissant/1.0" and told["@type"] == "sc:Dataset"
    assert (told["license"], told["url"]) == ("https://spdx.org/licenses/MIT", "https://example.org/x")
    assert "19 samples (1 failed, see failures.json)" in told["description"]
    *objects, files = told["distribution"]
    listed = read_json(tmp_path / "index.json", "")["files"]
    assert {of["contentUrl"]: of["sha256"] for of in objects} == (
        {name: of["sha256"] for name, of in listed.items()} if form in ("webdataset", "datasets") else {}
    )
    matched = (path for path in tmp_path.glob(files["includes"]) if path.is_file())
    assert {path.relative_to(tmp_path).as_posix() for path in matched} == listed.keys()
    names = [field["name"] for records in told.get("recordSet", ()) for field in records["field"]]
    assert names == ([f"samples/{name}" for name in ("id", "digest", "frames", "label")] if form == "datasets" else [])


# --- kills, changes, refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["npy", "webdataset", "datasets"])
def test_a_killed_export_goes_on_to_the_same_bytes(stores, tmp_path, monkeypatch, form):
    whole = files_of(exported(stores, "dinov3_patches", form, tmp_path / "whole"))
    export, ran = code.export, []

    def dies(store, folder, form, shard, notes):
        if ran:
            raise KeyboardInterrupt
        ran.append(shard)
        return export(store, folder, form, shard, notes)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(code, "export", dies)
        exported(stores, "dinov3_patches", form, tmp_path / "out")
    assert not (tmp_path / "out/index.json").exists()
    lines: list[str] = []
    out = exported(stores, "dinov3_patches", form, tmp_path / "out", lines)
    assert lines[0] == "shard 000: 8 samples are there" and "written" in lines[1]
    assert files_of(out) == whole


def test_what_is_gone_cut_or_labelled_otherwise_is_written_again_and_nothing_else(stores, tmp_path):
    folder = shutil.copytree(stores, tmp_path / "ucf")
    out = exported(folder, "clip_image", "webdataset", tmp_path / "out")
    before = files_of(out)
    (out / "train-000000.tar").write_bytes(b"cut")
    lines: list[str] = []
    exported(folder, "clip_image", "webdataset", out, lines)
    assert ["written" in line for line in lines] == [True, False, False] and files_of(out) == before
    frame = read_manifest(folder / "manifest.parquet")
    frame["split"] = frame["split"].replace("test", "val")
    write_manifest(frame, folder / "manifest.parquet")
    exported(folder, "clip_image", "webdataset", out, lines := [])
    assert ["written" in line for line in lines] == [False, True, True]
    assert sorted(path.name.partition("-")[0] for path in out.glob("*.tar")) == ["train", "train", "val", "val"]
    frame["split"] = ["a.b" if number % 2 else "a b" for number in range(20)]
    write_manifest(frame, folder / "manifest.parquet")
    with pytest.raises(ExportError, match=r"the splits 'a b' and 'a\.b' would share files; rename one"):
        exported(folder, "clip_image", "webdataset", out)


def test_what_cannot_be_exported_is_one_sentence(stores, tmp_path):
    store = place(stores, "clip_image")
    with pytest.raises(ExportError, match="--format csv: expected one of npy, npz, webdataset, datasets"):
        export_store(store, "csv", tmp_path / "out")
    with pytest.raises(ExportError, match="--out is empty"):
        export_store(store, "npy", "")
    (tmp_path / "card").mkdir()
    (tmp_path / "card/README.md").write_text("mine")
    with pytest.raises(ExportError, match=r"README\.md was made by something else"):
        export_store(store, "datasets", tmp_path / "card")
    assert (tmp_path / "card/README.md").read_text() == "mine"
    exported(stores, "clip_image", "npy", tmp_path / "out")
    with pytest.raises(ExportError, match="holds npy files of clip_image-1111111111, and these would be npz of"):
        export_store(store, "npz", tmp_path / "out")
    unfinished = shutil.copytree(store, tmp_path / store.name)
    (unfinished / "shard-001.json").unlink()
    with pytest.raises(StoreMissing, match="1 of 3 shards have no manifest"):
        export_store(unfinished, "npy", tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("id", ["../out", "/etc/x", "a//b", "a/..", "x" * 200])
def test_an_id_that_is_no_name_of_a_file_is_written_to_a_table_alone(tmp_path, id):
    store = tmp_path / "words" / "vec-0123456789"
    with ShardWriter(store / "shard-000", [(id, "0" * 64)], {"v": ((2,), "float16")}, made("vec")) as writer:
        writer.put(id, {"v": np.ones(2)}, {})
        writer.finish()
    for form in ("npy", "npz", "webdataset"):
        with pytest.raises(ExportError, match="cannot be the name of a file; write --format datasets"):
            export_store(store, form, tmp_path / "out")
    export_store(store, "datasets", tmp_path / "out", say=lambda line: None)
    assert pq.read_table(tmp_path / "out/data/all/000000.parquet", use_threads=False)["id"].to_pylist() == [id]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "words"]


def made(feature: str) -> dict[str, object]:
    return {"key": "0123456789", "feature": feature, "config": {}, "weights": {}, "grid": None, "box": None}


def test_a_damaged_sample_ends_the_export_by_name(stores, tmp_path):
    store = shutil.copytree(place(stores, "clip_image"), tmp_path / "ucf" / place(stores, "clip_image").name)
    (array,) = [path for path in (store / "shard-001.zarr").rglob("*") if path.is_file() and "c" in path.parts]
    flip(array, 3)
    with pytest.raises(StoreCorrupt, match=r"shard-001: sample 'v_\d+', field 'image_embed' does not fit its crc32c"):
        export_store(store, "webdataset", tmp_path / "out", say=lambda line: None)
    assert [path.name for path in (tmp_path / "out").glob("*.tar")] == ["000000.tar"]  # no manifest: no split


def test_the_command_takes_a_store_without_its_key(stores, tmp_path):
    from typer.testing import CliRunner

    asked = ["export", str(stores / "clip_image"), "--format", "npz", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0 and done.output.endswith(f"{tmp_path}: 19 samples, 1 failed\n")
    assert np.load(tmp_path / "v_000.npz")["image_embed"].shape == (8,)
    assert DIGEST in json.loads((tmp_path / "index.json").read_bytes())

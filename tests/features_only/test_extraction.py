"""Files in, a store or other files out: resumed, grown, repaired, and never mixed."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import Compute
from pipeline.datasets import DatasetError
from pipeline.exports import ExportError
from pipeline.features_only import FilesError, choose, extract_files
from pipeline.features_only import extraction as code
from pipeline.files import lock
from pipeline.store import FeatureStore, ShardWriter, verify
from tests.conftest import write_clip
from tests.extraction.small import contents

HERE = Compute(device="cpu", decode_workers=0)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Four clips in two folders, and a file that is none."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(4):
        path = folder / ("walk" if number % 2 else "run") / f"v.{number}.webm"
        path.parent.mkdir(exist_ok=True)
        write_clip(path, number, frames=6, size=32)
    (folder / "bad.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="module")
def choice():
    return choose("dinov3", "mini", frames=2, settings={"batch": 2, "preprocess.resize": [32, 32]})


@pytest.fixture(scope="module")
def whole(clips, choice, tmp_path_factory) -> Path:
    """The store of all the clips."""
    return take(clips, choice, tmp_path_factory.mktemp("whole")).folder


def take(paths, choice, out, form="store", lines=None):
    return extract_files(paths, choice, out, form, HERE, (lines if lines is not None else []).append)


IDS = ["bad", "run/v.0", "run/v.2", "walk/v.1", "walk/v.3"]


def test_files_become_a_store_as_the_workflow_makes_it(clips, choice, whole):
    store = FeatureStore(whole, verify=True)
    assert store.samples == IDS[1:] and store.failed == {"bad": "unreadable"} and verify(whole) == []
    assert whole.name == f"dinov3-{store.key}" and store.provenance["config"] == choice.feature.keyed
    assert store.meta("run/v.0")["times"] == [0.125, 0.375]


def test_a_failed_file_is_told_in_a_sentence_and_the_others_are_there(clips, choice, whole, tmp_path):
    found = take(clips, choice, shutil.copytree(whole.parent, tmp_path / "out"))
    assert found.ids == IDS and list(found.failed) == ["bad"]
    assert found.failed["bad"].startswith(f"{clips}/bad.mp4")


def test_a_killed_extraction_resumes_to_the_same_bytes(clips, choice, whole, tmp_path, monkeypatch):
    commit, done = ShardWriter.commit, []

    def dies(self: ShardWriter) -> None:
        if done:
            raise KeyboardInterrupt
        done.append(commit(self))

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(ShardWriter, "commit", dies)
        take(clips, choice, tmp_path)
    lines = []
    found = take(clips, choice, tmp_path, lines=lines)
    assert any("2 of 5 samples are there, 3 to compute" in line for line in lines)
    assert contents(found.folder) == contents(whole)


def test_more_files_and_repaired_ones_are_added_and_no_other_is_computed_again(clips, choice, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.features_only.files.SHARD_SIZE", 2)
    mine, out, lines = shutil.copytree(clips, tmp_path / "mine"), tmp_path / "out", []
    first = take([mine / "walk", mine / "bad.mp4"], choice, out)
    assert first.ids == ["v.1", "v.3", "bad"] and list(first.failed) == ["bad"]
    write_clip(mine / "bad.mp4", 9, frames=6, size=32)
    second = take([mine / "bad.mp4", mine / "run"], choice, out, lines=lines)
    assert second.failed == {} and FeatureStore(second.folder).samples == ["v.1", "v.3", "bad", "v.0", "v.2"]
    assert not any("shard 000" in line for line in lines)


@pytest.mark.parametrize("form", ["npy", "npz", "webdataset"])
def test_other_formats_hold_what_the_store_holds(clips, choice, whole, tmp_path, form):
    take(clips, choice, tmp_path, form)
    store = FeatureStore(whole)
    tokens, cls = store.read(["run/v.0"], "patch_tokens")[0], store.read(["run/v.0"], "cls")[0]
    if form == "npy":
        found = {name: np.load(tmp_path / f"run/v.0.{name}.npy") for name in store.fields}
    elif form == "npz":
        found = dict(np.load(tmp_path / "run/v.0.npz"))
        assert found["times"].tolist() == [0.125, 0.375]
    else:
        with tarfile.open(tmp_path / "000000.tar") as archive:
            members = {member.name: archive.extractfile(member).read() for member in archive}
        assert [name for name in members if name.endswith(".json")] == [
            f"{id.replace('.', '_')}.json" for id in IDS[1:]
        ]
        noted = json.loads(members["run/v_0.json"])
        assert (noted["id"], noted["times"]) == ("run/v.0", [0.125, 0.375])
        found = {name: np.load(io.BytesIO(members[f"run/v_0.{name}.npy"])) for name in store.fields}
    np.testing.assert_array_equal(found["patch_tokens"], tokens)
    np.testing.assert_array_equal(found["cls"], cls)
    failures, index = (json.loads((tmp_path / name).read_text()) for name in ("failures.json", "index.json"))
    assert failures.keys() - {"_sha256"} == {"bad"} and "bad.mp4" in failures["bad"]
    assert list(index["samples"]) == IDS[1:] and index["provenance"] == store.provenance
    assert all((tmp_path / file).is_file() for file in index["files"]) and not list(tmp_path.rglob("*.zarr"))


def test_files_that_are_whole_are_not_made_again_and_one_that_is_gone_or_cut_is(clips, choice, tmp_path, monkeypatch):
    take(clips, choice, tmp_path, "npy")
    ran, extract = [], code.extract
    monkeypatch.setattr(code, "extract", lambda *given: ran.append(given[3]) or extract(*given))
    take(clips, choice, tmp_path, "npy")
    assert ran == []
    cut = tmp_path / "run/v.2.cls.npy"
    before = cut.read_bytes()
    cut.write_bytes(before[:100])
    take(clips, choice, tmp_path, "npy")
    assert ran == [0] and cut.read_bytes() == before


def test_an_export_that_is_killed_between_its_files_goes_on(clips, choice, tmp_path, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("pipeline.exports.folder.write_json", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        take(clips, choice, tmp_path, "npz")
    lines = []
    take(clips, choice, tmp_path, "npz", lines=lines)
    assert any("5 of 5 samples are there, 0 to compute" in line for line in lines)
    assert sum(path.is_file() for path in tmp_path.rglob("*.npz")) == 4 and not list(tmp_path.rglob("*.zarr"))


def test_two_features_never_mix_in_one_folder_of_files(clips, choice, tmp_path):
    take(clips / "run", choice, tmp_path, "npy")
    other = choose("dinov3", "mini", frames=1, settings={"preprocess.resize": [32, 32]})
    with pytest.raises(
        ExportError, match=r"holds npy files of dinov3-\w+, and these would be npy of dinov3-\w+: one would"
    ):
        take(clips / "run", other, tmp_path, "npy")
    with pytest.raises(FilesError, match="expected one of store, npy, npz, webdataset, datasets"):
        take(clips, choice, tmp_path, "csv")


def test_a_folder_that_another_extraction_writes_is_left_to_it(clips, choice, tmp_path):
    held = lock(tmp_path / ".lock")
    with pytest.raises(ExportError, match="another extraction is writing there; wait for it, or name another --out"):
        take(clips, choice, tmp_path)
    assert held


def test_a_damaged_manifest_is_made_again_by_the_same_command_and_nothing_is_computed(clips, choice, whole, tmp_path):
    out = shutil.copytree(whole.parent, tmp_path / "out")
    path = out / "manifest.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(
        DatasetError, match=r"delete it, and name all files to `permafrost extract` again, which .* none that is there"
    ) as raised:
        take(clips, choice, out)
    assert "python -m pipeline" not in str(raised.value)
    path.unlink()
    lines = []
    take(clips, choice, out, lines=lines)
    assert any("5 of 5 samples are there, 0 to compute" in line for line in lines)


def test_a_place_where_nothing_can_be_written_is_told_before_anything_is_read(clips, choice, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for out in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(ExportError, match=r"is no folder that can be written .*; name another --out"):
            extract_files(clips, choice, out)
    with pytest.raises(FilesError, match="--out is empty"):
        extract_files(clips, choice, "")


@pytest.mark.parametrize(("form", "name"), [("npz", "a/1.npz"), ("npy", "x.npy"), ("webdataset", "shard-000.tar")])
def test_what_somebody_else_made_is_never_replaced(clips, choice, tmp_path, form, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(ExportError, match=f"{name} was made by something else"):
        extract_files(clips, choice, tmp_path, form)
    assert (tmp_path / name).read_bytes() == b"mine"

"""Claims about features that somebody else computed: every form of file, what is checked, said, refused and resumed."""

import hashlib
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from pipeline.config import ParamsError, feature_dir
from pipeline.config.contents import Tokens, Vectors
from pipeline.datasets import build_manifest, quality_markdown
from pipeline.extraction import ExtractionFailed, imports
from pipeline.plan import imported_stores
from pipeline.store import FeatureStore, verify
from tests.extraction.small import contents, dying_at_the_second_commit, params_of, run
from tests.extraction.test_sources import Pickled
from tests.later import Later

zarr = Later("zarr")

WIDTH = 4
IDS = ["a/1", "a/2", "b/1", "b/2", "c.d"]
BY_WEBDATASET = Path(__file__).parent / "webdataset"  # README.md there says how


def params_with(folder: Path, named=IDS, lenient=True, **feature):
    """A table of ids without a video, and the feature `mine` of them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.csv").write_text("id,label\n" + "".join(f"{id},{id[0]}\n" for id in named))
    chosen = {"backbone": "imported", "width": WIDTH, "batch": 2, "max_failed": 1.0 if lenient else 0.0} | feature
    return params_of(folder, {"mine": chosen}, layout="table", table="table.csv", videos=None)


def imported(tmp_path: Path, lines=None, named=IDS, **feature) -> FeatureStore:
    params = params_with(tmp_path / "set", named, **feature)
    run(params, tmp_path / "features", lines, "mine")
    store = FeatureStore(feature_dir(params, "small", "mine", tmp_path / "features"), verify=True)
    assert verify(store.directory) == []
    return store


def vectors(dtype=np.float16, shape=(WIDTH,), ids=IDS) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {id: rng.normal(size=shape).astype(dtype) for id in ids}


def rows(dtype=np.float16) -> dict[str, np.ndarray]:
    return {id: vectors(dtype, (3 + place, WIDTH))[id] for place, id in enumerate(IDS)}


def of(store: FeatureStore, name: str, sample: str) -> np.ndarray:
    return (store.read_ragged if store.fields[name][0][0] is None else store.read)([sample], name)[0]


def expect(store: FeatureStore, name: str, wanted: dict[str, np.ndarray]) -> None:
    assert store.samples == list(wanted) and store.failed == {}
    for sample, array in wanted.items():
        np.testing.assert_array_equal(of(store, name, sample), array)


# --- a file a sample --------------------------------------------------------------------------------------------------


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez_compressed(path, other=np.arange(3), feature=array)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["feature"], file["coords"] = array, np.arange(3)
    elif path.suffix == ".pt":
        torch.save({"feature": torch.from_numpy(array), "name": path.stem}, path)
    else:
        np.save(path, array)


@pytest.mark.parametrize("extension", [".npy", "_rgb.npy", ".npz", ".h5", ".pt"])
def test_a_file_a_sample_of_every_kind_is_stored_as_it_is_under_its_own_digest(tmp_path, extension):
    wanted = vectors()
    for id, array in wanted.items():
        save(tmp_path / "theirs" / f"{id}{extension}", array)
    array = {} if extension.endswith(".npy") else {"array": "feature"}
    kind = {"form": "files", "root": str(tmp_path / "theirs"), "content": "vectors", "extension": extension}
    store = imported(tmp_path, **kind, **array)
    expect(store, "vectors", wanted)
    for id in IDS:
        assert store.digest(id) == hashlib.sha256((tmp_path / f"theirs/{id}{extension}").read_bytes()).hexdigest()
    assert str(tmp_path) not in str(store.provenance) and store.fields == {"vectors": ((WIDTH,), "float16")}


@pytest.mark.parametrize(
    ("content", "shape", "given", "content_type"),
    [
        ({"content": "vectors", "steps": 3}, (3, WIDTH), (3, WIDTH), Vectors(WIDTH, 3)),
        ({"content": "tokens", "steps": 2, "grid": [3, 5]}, (2, 15, WIDTH), (2, 15, WIDTH), Tokens(2, (3, 5), WIDTH)),
        ({"content": "vectors"}, (WIDTH,), (1, 1, WIDTH), Vectors(WIDTH)),
    ],
)
def test_what_a_sample_is_is_known_from_params_and_checked_against_the_files(
    tmp_path, content, shape, given, content_type
):
    for id, array in vectors(shape=given).items():
        save(tmp_path / "theirs" / f"{id}.npy", array)
    np.save(tmp_path / "theirs/b/2.npy", np.zeros((7, *given), np.float16))
    place = {"form": "files", "root": str(tmp_path / "theirs")}
    store = imported(tmp_path, **place, **content)
    expected = vectors(shape=given)
    assert store.samples == [id for id in IDS if id != "b/2"] and store.fields[content["content"]][0] == shape
    np.testing.assert_array_equal(of(store, content["content"], "a/1"), expected["a/1"].reshape(shape))
    assert f"has shape {(7, *given)}, expected ({', '.join(map(str, shape))}" in store.failed["b/2"]
    params = params_with(tmp_path / "set", **place, **content)
    assert params.gives("mine") == {content["content"]: content_type}
    assert store.provenance["grid"] == ([2, 3, 5] if content["content"] == "tokens" else None)


def test_rows_lie_either_way_and_their_rate_may_be_unknown(tmp_path):
    for id, array in rows().items():
        save(tmp_path / "theirs" / f"{id}.npy", array.T)
    place = {"form": "files", "root": str(tmp_path / "theirs"), "content": "rows", "orientation": "DT"}
    store = imported(tmp_path, **place)
    expect(store, "rows", rows())
    assert store.meta("a/1") == {}
    timed = imported(tmp_path / "timed", **place, fps=15.0)
    assert timed.meta("a/1") == {"fps": 15.0} and timed.key != store.key


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"content": "tokens", "steps": 2}, "content: tokens needs grid"),
        ({"content": "vectors", "fps": 2.0}, "fps says nothing of content: vectors; remove it"),
        ({"form": "hdf5", "extension": ".npz"}, "extension is of files and of members, and form is hdf5"),
        ({"form": "webdataset", "extension": ".mp4"}, r"extension is '.mp4', and of form webdataset .npy, .npz"),
        ({"ids": "ids"}, "ids is of one array of all samples: form hdf5 or zarr, with array"),
        ({"array": "x"}, r"array names one of several, and a .npy holds one; remove it"),
    ],
)
def test_what_cannot_fit_is_refused_when_params_are_read(tmp_path, change, says):
    with pytest.raises(ParamsError, match=says):
        params_with(tmp_path, **{"form": "files", "root": "theirs", "content": "rows"} | change)


# --- one file of all samples ------------------------------------------------------------------------------------------


def clam(path: Path, samples: dict[str, np.ndarray], **options) -> None:
    """One HDF5 of many slides as CLAM and TRIDENT write each: `features` and `coords` in a group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for id, array in samples.items():
            group = file.create_group(id)
            group.create_dataset("features", data=array, maxshape=(None, *array.shape[1:]), **options)
            group.create_dataset("coords", data=np.zeros((len(array), 2), np.int64))
            group["coords"].attrs["patch_size"] = 256


def test_an_hdf5_of_groups_as_clam_writes_them_and_one_of_plain_datasets(tmp_path):
    clam(tmp_path / "slides.h5", rows(np.float16), chunks=(2, WIDTH), compression="gzip")
    store = imported(tmp_path, form="hdf5", root=str(tmp_path / "slides.h5"), content="rows")
    expect(store, "rows", rows())
    assert {store.digest(id) for id in IDS} == {hashlib.sha256((tmp_path / "slides.h5").read_bytes()).hexdigest()}
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        for id, array in vectors().items():
            file[id] = array
    expect(
        imported(tmp_path / "2", form="hdf5", root=str(tmp_path / "plain.h5"), content="vectors"), "vectors", vectors()
    )


@pytest.mark.parametrize("version", [2, 3])
def test_a_zarr_with_an_array_a_sample_of_either_format(tmp_path, version):
    group = zarr.open_group(tmp_path / "theirs.zarr", mode="w", zarr_format=version)
    for id, array in rows().items():
        group.create_array(id, data=array, chunks=(2, WIDTH))
    store = imported(tmp_path, form="zarr", root=str(tmp_path / "theirs.zarr"), content="rows")
    expect(store, "rows", rows())


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")  # of text in format 3
@pytest.mark.parametrize("where", ["zarr2", "zarr3", "attribute", "hdf5"])
def test_one_array_of_all_samples_and_their_ids(tmp_path, where):
    together, backwards = np.stack(list(vectors().values()))[::-1], IDS[::-1]
    root = tmp_path / "all"
    if where == "hdf5":
        with h5py.File(root, "w") as file:
            file.create_dataset("x", data=together, chunks=(2, WIDTH))
            file["names"] = backwards
    else:
        group = zarr.open_group(root, mode="w", zarr_format=2 if where == "zarr2" else 3)
        group.create_array("x", data=together, chunks=(2, WIDTH))
        if where == "attribute":
            group.attrs["names"] = backwards
        else:
            group.create_array("names", data=np.array(backwards))
    place = {"form": "hdf5" if where == "hdf5" else "zarr", "root": str(root), "array": "x", "ids": "names"}
    expect(imported(tmp_path, content="vectors", **place), "vectors", vectors())


# --- tars -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", [".npy", ".npz", ".pth"])
def test_shards_that_the_library_webdataset_wrote(tmp_path, extension):
    rng = np.random.default_rng(7)
    wanted = {f"class_{n % 2}/clip_{n}": rng.normal(size=4).astype(np.float32) for n in range(5)}
    place = {"form": "webdataset", "root": str(BY_WEBDATASET), "extension": extension, "dtype": "float32"}
    store = imported(tmp_path, named=list(wanted), content="vectors", **place)
    expect(store, "vectors", wanted)
    digests = [hashlib.sha256((BY_WEBDATASET / f"{n:04d}.tar").read_bytes()).hexdigest() for n in (0, 1)]
    assert [store.digest(id) for id in wanted] == [digests[0]] * 3 + [digests[1]] * 2


def tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_a_sample_of_a_tar_is_named_by_the_id_in_its_json_where_there_is_one(tmp_path):
    members = {}
    for id, array in vectors().items():
        members |= {f"{id.replace('.', '_')}.x.npy": npy(array), f"{id.replace('.', '_')}.y.npy": b"other"}
        members[f"{id.replace('.', '_')}.json"] = json.dumps({"id": id}).encode()
    (tmp_path / "theirs").mkdir()
    tar(tmp_path / "theirs/0.tar", members)
    place = {"form": "webdataset", "root": str(tmp_path / "theirs"), "extension": ".x.npy"}
    expect(imported(tmp_path, content="vectors", **place), "vectors", vectors())


def test_what_lies_in_a_tar_is_never_a_path_and_what_is_twice_is_nobodys(tmp_path):
    (tmp_path / "theirs").mkdir()
    one = npy(vectors()["a/1"])
    tar(tmp_path / "theirs/0.tar", {"../../out.npy": one, "/etc/x.npy": one, "a/1.npy": one, "a/2.npy": one})
    tar(tmp_path / "theirs/1.tar", {"a/2.npy": one, "b/1.npy": one, "b/2.npy": one})
    content = (tmp_path / "theirs/1.tar").read_bytes()
    (tmp_path / "theirs/1.tar").write_bytes(content[: 2 * 1024 + 512 + 100])  # within b/2
    with tarfile.open(tmp_path / "theirs/2.tar", "w") as archive:
        link = tarfile.TarInfo("c.npy")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    place = {"form": "webdataset", "root": str(tmp_path / "theirs"), "content": "vectors"}
    store = imported(tmp_path, named=["a/1", "a/2", "b/2", "c"], **place)
    assert store.samples == ["a/1"]
    assert "more than once" in store.failed["a/2"]
    assert "nothing named 'b/2' (1.tar cannot be read to its end" in store.failed["b/2"]
    assert "nothing named 'c'" in store.failed["c"] and not (tmp_path.parent / "out.npy").exists()


def test_a_header_that_is_damaged_is_no_end_of_a_tar(tmp_path):
    (tmp_path / "theirs").mkdir()
    one = npy(vectors()["a/1"])
    tar(tmp_path / "theirs/0.tar", {"a/1.npy": one, "a/2.npy": one})
    content = bytearray((tmp_path / "theirs/0.tar").read_bytes())
    content[1024 + 148] ^= 0xFF  # the checksum of the second header
    (tmp_path / "theirs/0.tar").write_bytes(content)
    store = imported(tmp_path, form="webdataset", root=str(tmp_path / "theirs"), content="vectors")
    assert store.samples == ["a/1"] and "the header at byte 1024 is damaged" in store.failed["a/2"]


# --- casts ------------------------------------------------------------------------------------------------------------


def test_a_cast_that_loses_is_said_with_the_largest_error_and_kept_with_each_sample(tmp_path):
    wanted = vectors(np.float32)
    wanted["b/1"] = np.float32([1, 0.5, 100.03, 0])  # to 100.0: no other is off by as much
    for id, array in wanted.items():
        save(tmp_path / "theirs" / f"{id}.npy", array)
    lines: list[str] = []
    place = {"form": "files", "root": str(tmp_path / "theirs"), "content": "vectors"}
    store = imported(tmp_path, lines, **place)
    error = float(np.abs(np.float32(100.03) - 100.0))
    told = f"mine: float32 to float16 changes values: at most by {error:.3g}, of 100.03 in sample 'b/1'"
    assert any(line.startswith(told) for line in lines)
    rounded = store.meta("b/1")["rounded"]
    assert rounded == {"from": "float32", "error": pytest.approx(error), "count": 1}
    exact = imported(tmp_path / "exact", lines := [], **place, dtype="float32")
    expect(exact, "vectors", wanted)
    assert exact.meta("b/1") == {} and not any("changes values" in line for line in lines)


def test_a_cast_that_loses_can_be_refused_and_what_float16_cannot_hold_fails_with_the_remedy(tmp_path):
    wanted = vectors(np.float32)
    wanted["a/1"] = np.float32([1, 2, 3, 4])
    wanted["a/2"] = np.float32([1, 70_000, 3, 4])
    wanted["b/2"] = np.float32([1, np.nan, 3, 4])
    for id, array in wanted.items():
        save(tmp_path / "theirs" / f"{id}.npy", array)
    place = {"form": "files", "root": str(tmp_path / "theirs"), "content": "vectors"}
    store = imported(tmp_path, **place)
    assert store.samples == ["a/1", "b/1", "c.d"]
    assert "70000" in store.failed["a/2"] and store.failed["a/2"].endswith("; set dtype: float32 for this feature")
    assert "nan" in store.failed["b/2"] and "dtype: float32" not in store.failed["b/2"]
    assert store.failed["b/2"].endswith("; compute it again there, or leave the sample out of the annotations")
    strict = imported(tmp_path / "strict", **place, lossy="refuse")
    assert strict.samples == ["a/1"] and strict.key != store.key
    assert strict.failed["b/1"].startswith("lossy: float32 to float16 changes 4 of 4 values, by up to ")
    assert strict.failed["b/1"].endswith("set dtype: float32, or lossy: say")
    with pytest.raises(ExtractionFailed, match="2 of 5 samples failed"):
        imported(tmp_path / "no", **place, lenient=False)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_largest_error_is_numpys_over_blocks_of_any_size(dtype, monkeypatch):
    array = np.random.default_rng(1).normal(0, 50, (37, 11)).astype(dtype)
    wanted = np.abs(array.astype(np.float16).astype(np.float64) - array.astype(np.float64))
    for block in (7, 1 << 20):
        monkeypatch.setattr(imports, "BLOCK", block)
        found = imports.rounding(array, np.dtype("float16"))
        assert (found.error, found.count) == (wanted.max(), np.count_nonzero(wanted))
        assert found.value == array.reshape(-1)[wanted.argmax()]
    assert imports.rounding(array.astype(np.float16), np.dtype("float16")) is None


# --- what is refused --------------------------------------------------------------------------------------------------


def test_no_pickle_is_opened_whatever_it_lies_in(tmp_path):
    evil = np.array([Pickled()], dtype=object)
    folder = tmp_path / "theirs"
    folder.mkdir()
    np.savez(folder / "npz.npz", feature=evil)
    torch.save({"feature": Pickled()}, folder / "pt.pt")
    with h5py.File(folder / "h5.h5", "w") as file:
        file.create_dataset("feature", data=np.void(b"pickle"))
    tar(folder / "0.tar", {"npy.npy": (lambda s: (np.save(s, evil, allow_pickle=True), s.getvalue())[1])(io.BytesIO())})
    for kind, words in {"npz": "holds objects", "pt": "no array of numbers", "h5": "holds |V6"}.items():
        place = {"form": "files", "root": str(folder), "content": "vectors", "array": "feature"}
        store = imported(tmp_path / kind, named=[kind], extension=f".{kind}", **place)
        assert words in store.failed[kind]
    store = imported(tmp_path / "tar", named=["npy"], form="webdataset", root=str(folder), content="vectors")
    assert "holds objects, that is a pickle" in store.failed["npy"]


def test_what_a_small_file_declares_is_not_believed(tmp_path, monkeypatch):
    monkeypatch.setattr(imports, "MOST_UNPACKED", 1000)
    folder = tmp_path / "theirs"
    folder.mkdir()
    large = np.zeros((500, WIDTH), np.float32)
    save(folder / "z.npz", large)
    torch.save(torch.zeros(1).expand(500, WIDTH), folder / "t.pt")
    clam(folder / "h.h5", {"h": large}, compression="gzip")
    group = zarr.open_group(folder / "z.zarr", mode="w")
    group.create_array("z", data=large)
    for id, place in {
        "z": {"form": "files", "root": str(folder), "extension": ".npz", "array": "feature"},
        "t": {"form": "files", "root": str(folder), "extension": ".pt"},
        "h": {"form": "hdf5", "root": str(folder / "h.h5")},
    }.items():
        store = imported(tmp_path / id, named=[id], content="rows", **place)
        assert "unpacks to 8" in store.failed[id] and "bytes, and 1000 are read at most" in store.failed[id]
    store = imported(tmp_path / "zarr", named=["z"], content="rows", form="zarr", root=str(folder / "z.zarr"))
    assert "unpacks to 8000 bytes" in store.failed["z"]


def test_what_was_never_written_is_not_taken_for_zeros(tmp_path):
    with h5py.File(tmp_path / "h.h5", "w") as file:
        made = file.create_dataset("a", (6, WIDTH), "f4", chunks=(2, WIDTH))
        made[:4] = 1
        file.create_dataset("b", (6, WIDTH), "f4")
    group = zarr.open_group(tmp_path / "z.zarr", mode="w")
    group.create_array("a", shape=(6, WIDTH), dtype="f4", chunks=(2, WIDTH))[:4] = 1
    store = imported(tmp_path / "1", named=["a", "b"], form="hdf5", root=str(tmp_path / "h.h5"), content="rows")
    assert "1 of 3 chunks are not there" in store.failed["a"] and "nothing of it is there" in store.failed["b"]
    store = imported(tmp_path / "2", named=["a"], form="zarr", root=str(tmp_path / "z.zarr"), content="rows")
    assert "1 of 3 chunks are not there, the first c/2/0" in store.failed["a"]


def test_an_hdf5_leads_to_no_other_file(tmp_path):
    clam(tmp_path / "secret.h5", rows())
    with h5py.File(tmp_path / "h.h5", "w") as file:
        file["a"] = h5py.ExternalLink("secret.h5", "/a/1/features")
        file["b"] = h5py.SoftLink("/a")
        layout = h5py.VirtualLayout((3, WIDTH), "f2")
        layout[:] = h5py.VirtualSource(tmp_path / "secret.h5", "a/1/features", (3, WIDTH))
        file.create_virtual_dataset("c", layout)
        (tmp_path / "raw").write_bytes(bytes(1000))
        file.create_dataset("d", (3, WIDTH), "f2", external=[(str(tmp_path / "raw"), 0, 1000)])
        file.create_group("loop")["back"] = file["/"]
    store = imported(tmp_path, named=["a", "b", "c", "d"], form="hdf5", root=str(tmp_path / "h.h5"), content="rows")
    assert store.samples == []
    assert all("nothing named" in store.failed[id] for id in "ab")
    assert all("lies in other files" in store.failed[id] for id in "cd")


@pytest.mark.parametrize("form", ["hdf5", "zarr", "webdataset", "files"])
def test_damage_fails_samples_by_name_and_never_the_job(tmp_path, form):
    folder = tmp_path / "theirs"
    folder.mkdir()
    root = folder
    if form == "hdf5":
        clam(root := folder / "h.h5", rows())
        root.write_bytes(root.read_bytes()[:900])
    elif form == "zarr":
        zarr.open_group(root := folder / "z.zarr", mode="w").create_array("a/1", data=rows()["a/1"])
        (root / "a/1/zarr.json").write_text("{")
    elif form == "webdataset":
        (folder / "0.tar").write_bytes(b"no tar" * 1000)
    else:
        save(folder / "a/1.npy", rows()["a/1"])
        (folder / "a/1.npy").write_bytes((folder / "a/1.npy").read_bytes()[:-3])
    store = imported(tmp_path, form=form, root=str(root), content="rows")
    assert list(store.failed) == IDS and all(
        reason.startswith(("missing", "unread")) for reason in store.failed.values()
    )
    assert all("\n" not in reason and str(root) in reason for reason in store.failed.values())


def test_a_zip_whose_member_lies_about_its_size_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy(np.zeros((5, WIDTH), np.float32))[:150])
    store = imported(tmp_path, named=["a"], form="files", root=str(tmp_path), extension=".npz", content="rows")
    assert "no array of numbers in a whole .npz file" in store.failed["a"]


# --- ids, digests, kills ----------------------------------------------------------------------------------------------


def test_the_quality_report_lists_samples_without_features_and_features_without_samples(tmp_path):
    clam(tmp_path / "slides.h5", {id: rows()["a/1"] for id in ("a/1", "b/1", "x", "y/z")})
    params = params_with(tmp_path / "set", form="hdf5", root=str(tmp_path / "slides.h5"), content="rows")
    stores = imported_stores(params, ["mine"])
    frame, quality = build_manifest(params.datasets["small"], imported=stores)
    (found,) = quality["imported"].values()
    assert found["with"] == 2 and found["without"] == {"count": 3, "names": ["a/2", "b/2", "c.d"]}
    assert found["unclaimed"] == {"count": 2, "names": ["x", "y/z"]}
    page = quality_markdown(quality)
    assert "Samples without features: 3, a/2, b/2, c.d." in page and "Features of no sample: 2, x, y/z." in page
    assert frame["status"].tolist() == ["ok"] * 5 and frame["path"].isna().all()
    store = imported(tmp_path, form="hdf5", root=str(tmp_path / "slides.h5"), content="rows")
    assert (
        store.failed["a/2"] == f"missing: {tmp_path / 'slides.h5'} has nothing named 'a/2' (it holds x, y/z, b/1, ...)"
    )


def test_a_wrong_array_is_seen_in_what_the_file_holds(tmp_path):
    clam(tmp_path / "slides.h5", rows())
    store = imported(tmp_path, form="hdf5", root=str(tmp_path / "slides.h5"), content="rows", array="feats")
    said = "(it holds no sample: correct the feature's extension, array or ids)"
    assert store.samples == [] and all(said in reason for reason in store.failed.values())


def test_a_folder_that_is_absent_is_told(tmp_path):
    store = imported(tmp_path, form="zarr", root=str(tmp_path / "no.zarr"), content="rows")
    assert "it does not exist; correct the feature's root" in store.failed["a/1"]


def test_a_replaced_source_is_noticed_and_only_what_lies_in_it_is_read_again(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    arrays = vectors()
    tar(folder / "0.tar", {f"{id}.npy": npy(arrays[id]) for id in ("a/1", "a/2")})
    tar(folder / "1.tar", {f"{id}.npy": npy(arrays[id]) for id in ("b/1", "b/2")})
    params = params_with(tmp_path / "set", IDS[:4], form="webdataset", root=str(folder), content="vectors")
    run(params, tmp_path / "features", None, "mine")
    tar(folder / "1.tar", {f"{id}.npy": npy(arrays[id] + 1) for id in ("b/1", "b/2")})
    os.utime(folder / "1.tar", ns=(1, 1))
    lines: list[str] = []
    run(params, tmp_path / "features", lines, "mine")
    assert "2 of 4 samples are there, 2 to compute" in lines[0]
    store = FeatureStore(feature_dir(params, "small", "mine", tmp_path / "features"))
    np.testing.assert_array_equal(of(store, "vectors", "b/2"), arrays["b/2"] + 1)


def test_a_zarr_that_changes_after_its_manifest_fails_as_replaced(tmp_path):
    from pipeline.extraction import extract
    from tests.extraction.small import make_manifest

    group = zarr.open_group(tmp_path / "z.zarr", mode="w")
    for id, array in rows().items():
        group.create_array(id, data=array)
    params = params_with(tmp_path / "set", form="zarr", root=str(tmp_path / "z.zarr"), content="rows")
    make_manifest(params, tmp_path / "features")
    group["a/1"][:] = 0
    extract(params, "small", "mine", 0, tmp_path / "features", lambda line: None)
    store = FeatureStore(feature_dir(params, "small", "mine", tmp_path / "features"))
    assert store.samples == [] and "was replaced since the manifest was made" in store.failed["a/1"]


@pytest.mark.parametrize("content", ["vectors", "rows"])
def test_a_killed_import_resumes_to_the_same_bytes(tmp_path, monkeypatch, content):
    clam(tmp_path / "all.h5", rows(np.float32) if content == "rows" else vectors(np.float32, (1, WIDTH)))
    place = {"form": "hdf5", "root": str(tmp_path / "all.h5"), "content": content}
    whole = contents(imported(tmp_path, **place).directory)
    with dying_at_the_second_commit(tmp_path / "features", monkeypatch):
        imported(tmp_path, **place)
    lines: list[str] = []
    store = imported(tmp_path, lines, **place)
    assert "2 of 5 samples are there, 3 to compute" in lines[0]
    assert contents(store.directory) == whole

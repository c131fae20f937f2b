"""A plan notices that a file of a data set was replaced, whatever it is, and nothing else."""

import os
import shutil
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.config import Dataset, Imported, ImportedFeature, NpyFeature
from pipeline.datasets import build_manifest, read_manifest, shard_digests, write_manifest
from pipeline.datasets.manifest import shard_contents, to_table
from pipeline.datasets.standing import Standing, standing
from pipeline.digests import Damaged
from tests.conftest import write_clip, write_ssv2
from tests.datasets.made_up import picture, write_images, write_labelled, write_texts

STORE = "published-0123456789"


@dataclass
class Set:
    """A data set with its manifest, and a file of it that is replaced."""

    folder: Path
    dataset: Dataset
    file: Path  # of the second sample, or of all
    replace: Callable[[Path], None]
    of: str | None = ""  # what rests on the file: "" all pixel features, maps, an imported store, None no feature
    imported: Mapping[str, Imported] = field(default_factory=dict)

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.parquet"

    def make(self, afresh: bool = False) -> "Set":
        previous = read_manifest(self.manifest) if self.manifest.exists() else None
        made, _ = build_manifest(self.dataset, previous, imported=self.imported, afresh=afresh)
        write_manifest(made, self.manifest)
        os.utime(self.manifest)
        return self

    def plan(self, **changes) -> Standing:
        dataset = self.dataset.model_copy(update=changes)
        return standing("set", dataset, self.manifest, self.imported, folder=self.folder / "looks")

    def digests(self) -> dict[str, dict[str, str | None]]:
        """What each kind of feature must hold, of the one shard."""
        return {of: shard_contents(self.manifest, 0, of) for of in ("", "maps", *self.imported)}


def text(path: Path) -> None:
    """Other content of the same size."""
    old = path.read_bytes()
    path.write_bytes(old[::-1] if old[::-1] != old else old[:-1] + b"x")


def videos(tmp_path: Path) -> Set:
    root = write_ssv2(tmp_path / "set", {"train": 2, "validation": 1})
    return Set(tmp_path, Dataset(layout="ssv2", root=str(root)), root / "2.webm", lambda path: write_clip(path, 9))


def json_labels(tmp_path: Path) -> Set:
    def relabel(path: Path) -> None:
        path.write_text(path.read_text(encoding="utf-8").replace("in way 1", "in way 0"), encoding="utf-8")

    made = videos(tmp_path)
    return Set(tmp_path, made.dataset, tmp_path / "set/train.json", relabel, of=None)


def pictures(tmp_path: Path) -> Set:
    root = tmp_path / "set"
    write_images(root, {"cat": 3})
    dataset = Dataset(layout="images", root=str(root))
    return Set(tmp_path, dataset, root / "cat/0001.png", lambda path: picture(9).save(path))


def masks(tmp_path: Path) -> Set:
    made = pictures(tmp_path)
    write_images(tmp_path / "set/masks", {"cat": 2}, seed=20)
    dataset = made.dataset.model_copy(update={"masks": "masks"})
    return Set(tmp_path, dataset, tmp_path / "set/masks/cat/0001.png", made.replace, of="maps")


def maps(tmp_path: Path) -> Set:
    """Clinicians' maps: an array, and a folder of pictures of which one is replaced."""
    root = tmp_path / "set"
    (root / "maps/b").mkdir(parents=True)
    for number, name in enumerate("ab"):
        write_clip(root / f"{name}.webm", number)
    np.save(root / "maps/a.npy", np.zeros((4, 4), np.float32))
    for name in ("0.png", "1.png"):
        picture(3).save(root / "maps/b" / name)
    rows = ("a,a.webm,maps/a.npy,x,p1,c,train", "b,b.webm,maps/b,y,p2,c,test")
    head = "sample,video,map,label,patient,clinician,split"
    (root / "clinic.csv").write_text("\n".join((head, *rows)) + "\n")
    dataset = Dataset(layout="clinic", root=str(root))
    return Set(tmp_path, dataset, root / "maps/b/1.png", lambda path: picture(9).save(path), of="maps")


LISTS = {"splits/train.split1.bundle": ["v1.txt", "v2.txt"], "splits/test.split1.bundle": ["v3.txt"]}


def frame_labels(tmp_path: Path) -> Set:
    root = write_labelled(tmp_path / "set", LISTS)
    dataset = Dataset(layout="mstcn", root=str(root), videos=None)

    def relabel(path: Path) -> None:
        path.write_text(path.read_text(encoding="utf-8").replace("pour_coffee", "take_cup"), encoding="utf-8")

    return Set(tmp_path, dataset, root / "groundTruth/v2.txt", relabel, of=None, imported=imported(tmp_path))


def imported(tmp_path: Path) -> dict[str, NpyFeature]:
    root = tmp_path / "published"
    root.mkdir(exist_ok=True)
    for number in (1, 2, 3):
        np.save(root / f"v{number}.npy", np.full((3, 4), number, np.float32))
    return {STORE: NpyFeature(backbone="npy", root=str(root), orientation="TD", width=4, fps=15.0)}


def arrays(tmp_path: Path) -> Set:
    made = frame_labels(tmp_path)
    file = tmp_path / "published/v2.npy"
    replace = lambda path: np.save(path, np.full((3, 4), 7, np.float32))  # noqa: E731
    return Set(tmp_path, made.dataset, file, replace, of=STORE, imported=made.imported)


def texts(tmp_path: Path) -> Set:
    write_texts(tmp_path / "words.txt")
    dataset = Dataset(layout="texts", root=str(tmp_path / "words.txt"))
    return Set(tmp_path, dataset, tmp_path / "words.txt", text)


def words(tmp_path: Path) -> Set:
    (tmp_path / "words").mkdir()
    for name in ("noun.animal", "adj.all"):
        write_texts(tmp_path / "words" / name, [f"{name[:3]}a", f"{name[:3]}b"])
    dataset = Dataset(layout="words", root=str(tmp_path / "words"))
    return Set(tmp_path, dataset, tmp_path / "words/noun.animal", text)


def archive(tmp_path: Path) -> Set:
    """One HDF5 with a dataset a sample."""
    made, file = frame_labels(tmp_path), tmp_path / "rows.h5"

    def write(path: Path, value: float = 7.0) -> None:
        with h5py.File(path, "w") as all_of_it:
            for number in (1, 2, 3):
                all_of_it[f"v{number}"] = np.full((3, 4), value, np.float32)

    write(file, 1.0)
    feature = ImportedFeature(backbone="imported", form="hdf5", root=str(file), content="rows", width=4)
    return Set(tmp_path, made.dataset, file, write, of=STORE, imported={STORE: feature})


def tars(tmp_path: Path) -> Set:
    """A tar a sample, of which one is replaced."""
    made, folder = frame_labels(tmp_path), tmp_path / "tars"
    folder.mkdir()

    def write(path: Path, value: float = 7.0) -> None:
        np.save(tmp_path / f"{path.stem}.npy", np.full((3, 4), value, np.float32))
        with tarfile.open(path, "w") as shard:
            shard.add(tmp_path / f"{path.stem}.npy", f"{path.stem}.npy")

    for number in (1, 2, 3):
        write(folder / f"v{number}.tar", 1.0)
    feature = ImportedFeature(backbone="imported", form="webdataset", root=str(folder), content="rows", width=4)
    return Set(tmp_path, made.dataset, folder / "v2.tar", write, of=STORE, imported={STORE: feature})


KINDS = [videos, json_labels, pictures, masks, maps, frame_labels, arrays, archive, tars, texts, words]


def replaced_in_silence(made: Set) -> None:
    """As `cp -p` or a package does it: the new file is older than the manifest."""
    made.replace(made.file)
    os.utime(made.file, ns=(10**18, 10**18))


@pytest.mark.parametrize("kind", KINDS)
def test_a_replaced_file_of_any_kind_is_noticed_however_old_it_is(kind, tmp_path):
    made = kind(tmp_path)
    assert not made.plan().stale, "what is not there is made without being stale"
    made.make()
    found = made.plan()
    assert not found.stale and found.stamp.stat().st_mtime < made.manifest.stat().st_mtime
    replaced_in_silence(made)
    found = made.plan()
    assert found.stale and found.stamp.stat().st_mtime_ns > made.manifest.stat().st_mtime_ns
    made.make()
    found = made.plan()
    assert not found.stale and found.stamp.stat().st_mtime < made.manifest.stat().st_mtime


@pytest.mark.parametrize("kind", [videos, json_labels, pictures, masks, maps, frame_labels, arrays, tars])
def test_what_rests_on_a_replaced_file_is_asked_for_of_that_sample_and_nothing_else(kind, tmp_path):
    made = kind(tmp_path).make()
    before, shards = made.digests(), {of: shard_digests(made.manifest, of) for of in ("", "maps")}
    replaced_in_silence(made)
    after = made.make().digests()
    changed = {of: [s for s, digest in after[of].items() if digest != before[of][s]] for of in after}
    second = list(after[""])[1]
    rests = {"": {"", "maps"}, "maps": {"maps"}, STORE: {STORE}, None: set()}[made.of]
    if kind is frame_labels:  # without a video, its labels are what a sample is
        rests = {"", "maps"}
    assert {of for of, samples in changed.items() if samples} == rests
    assert all(samples == [second] for of, samples in changed.items() if of in rests)
    assert {of for of in shards if shard_digests(made.manifest, of) != shards[of]} == rests - {STORE}


def test_the_plan_goes_on_saying_so_until_the_manifest_is_made_whoever_touches_it(tmp_path):
    made = pictures(tmp_path).make()
    made.plan()
    made.replace(made.file)
    told = made.plan().stamp.read_text()
    os.utime(made.manifest)
    found = made.plan()
    assert found.stale and found.stamp.stat().st_mtime_ns > made.manifest.stat().st_mtime_ns
    assert found.stamp.read_text() != told, "a stamp of the same content Snakemake would pass over"


@pytest.mark.parametrize("kind", [pictures, videos, masks])
def test_added_and_removed_files_are_noticed(kind, tmp_path):
    made = kind(tmp_path).make()
    made.plan()
    content = made.file.read_bytes()
    made.file.unlink()
    assert made.plan().stale
    made.make()
    assert not made.plan().stale
    made.file.write_bytes(content)
    assert made.plan().stale


def pulled(made: Set) -> Set:
    """The same data set and manifest as a clone has them: every file has another time, and nothing was planned yet."""
    made.make()
    for number, path in enumerate(sorted(path for path in made.folder.rglob("*") if path.is_file())):
        os.utime(path, ns=(10**18 + number, 10**18 + number))
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_where_a_manifest_was_pulled_times_say_nothing_until_a_plan_has_seen_them(kind, tmp_path):
    made = pulled(kind(tmp_path))
    assert [made.plan().stale, made.plan().stale] == [False, False]
    assert made.plan().pulled
    replaced_in_silence(made)
    assert made.plan().stale
    made.make()
    found = made.plan()
    assert not found.stale and not found.pulled, "it is this project's from now on"


@pytest.mark.parametrize("kind", [videos, pictures, arrays, tars])
def test_of_a_forgotten_project_one_file_of_another_time_was_replaced(kind, tmp_path):
    made = kind(tmp_path).make()
    made.plan()
    shutil.rmtree(tmp_path / "looks")
    made.replace(made.file)
    assert made.plan().stale


def test_in_a_clone_another_size_is_noticed_by_the_first_plan(tmp_path):
    made = pulled(masks(tmp_path))
    made.file.write_bytes(made.file.read_bytes() + b" ")
    assert made.plan().stale


def test_data_that_is_not_on_this_machine_is_not_replaced(tmp_path):
    made = masks(tmp_path).make()
    made.plan()
    shutil.rmtree(tmp_path / "set")
    assert not made.plan().stale


def test_a_slow_disk_can_be_left_alone(tmp_path):
    made = pictures(tmp_path).make()
    made.plan()
    made.replace(made.file)
    assert not made.plan(watch=False).stale and made.plan().stale


def test_edited_params_of_a_data_set_are_seen_without_snakemake_s_memory(tmp_path):
    made = pulled(frame_labels(tmp_path))
    assert not made.plan().stale
    assert made.plan(background=("SIL",)).stale


def test_imported_features_that_the_manifest_does_not_know_are_asked_of_it(tmp_path):
    made = arrays(tmp_path)
    features, made.imported = made.imported, {}
    made.make()
    assert not made.plan().stale
    made.imported = features
    assert made.plan().stale
    made.make()
    assert not made.plan().stale
    made.imported = {}
    made.make()
    made.imported = features
    assert not made.plan().stale, "what another params document asked for is kept"


def test_a_file_of_the_same_size_and_time_is_found_by_a_manifest_that_is_made_afresh(tmp_path):
    made = videos(tmp_path)
    made.make()
    status, before = made.file.stat(), made.digests()
    text(made.file)
    os.utime(made.file, ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert made.make().digests() == before
    assert made.make(afresh=True).digests() != before


def test_a_manifest_without_a_digest_of_itself_is_out_of_date(tmp_path):
    """Those of earlier versions: nobody can tell whether they are whole."""
    made = texts(tmp_path).make()
    assert not made.plan().stale
    pq.write_table(to_table(read_manifest(made.manifest)), made.manifest)
    assert made.plan().stale
    write_manifest(read_manifest(made.manifest, unproved=True), made.manifest)
    assert not made.plan().stale


def test_a_damaged_stamp_is_one_error_with_the_remedy_and_an_earlier_version_s_is_taken(tmp_path):
    made = texts(tmp_path).make()
    found = made.plan()
    found.stamp.write_bytes(found.stamp.read_bytes()[:-3])
    with pytest.raises(Damaged, match=r"looks/set is damaged.*; delete it and .* manifest set --afresh`"):
        made.plan()
    found.stamp.write_text('{"made_here": true}', encoding="utf-8")
    assert not made.plan().pulled and not made.plan().stale

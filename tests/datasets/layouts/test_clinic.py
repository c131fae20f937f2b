"""Claims about the csv file of videos, maps and diagnoses, and the manifests made of it."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config import Dataset
from pipeline.datasets import (
    DatasetError,
    annotation_files,
    build,
    build_manifest,
    quality_markdown,
    read_annotations,
    shard_samples,
)

HEAD = "sample,video,map,label,patient,clinician,split"
# Patient p1 has two videos; two clinicians marked the first. The last row has neither map nor label nor clinician.
LINES = (
    "p1a_ann,p1/a.webm,maps/ann/p1a.npz,tremor,p1,ann,train",
    "p1a_bob,p1/a.webm,maps/bob/p1a,tremor,p1,bob,train",
    "p1b_ann,p1/b.webm,maps/ann/p1b.npz,jerk,p1,ann,train",
    "p2a_bob,p2/a.webm,maps/bob/p2a.npz,jerk,p2,bob,val",
    "p3a,p3/a.webm,,,p3,,test",
)


def dataset(root: Path, **fields) -> Dataset:
    return Dataset(layout="clinic", root=str(root), videos="videos", shard_size=2, **fields)


def write(root: Path, *lines: str, head: str = HEAD) -> Dataset:
    (root / "clinic.csv").write_text("".join(f"{line}\n" for line in (head, *lines)))
    return dataset(root)


def put(root: Path, **files: bytes) -> None:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


@pytest.fixture
def whole(tmp_path, clips) -> Dataset:
    """All videos and maps of LINES; the second map is a folder of pictures."""
    for number, path in enumerate(("p1/a", "p1/b", "p2/a", "p3/a")):
        put(tmp_path, **{f"videos/{path}.webm": clips[number]})
    put(tmp_path, **{f"maps/{name}.npz": name.encode() for name in ("ann/p1a", "ann/p1b", "bob/p2a")})
    put(tmp_path, **{"maps/bob/p1a/2.png": b"two", "maps/bob/p1a/1.png": b"one", "maps/bob/p1a/.hidden": b"x"})
    return write(tmp_path, *LINES)


def test_a_row_is_a_map_of_a_video_in_the_files_order(tmp_path):
    frame = read_annotations(write(tmp_path, *reversed(LINES)))
    assert frame["sample"].tolist() == ["p3a", "p2a_bob", "p1b_ann", "p1a_bob", "p1a_ann"]
    assert frame["path"].tolist() == ["p3/a.webm", "p2/a.webm", "p1/b.webm", "p1/a.webm", "p1/a.webm"]
    assert frame["map"].tolist()[:2] == [None, "maps/bob/p2a.npz"]
    assert frame["label"].tolist() == [None, "jerk", "jerk", "tremor", "tremor"]
    assert frame["patient"].tolist() == ["p3", "p2", "p1", "p1", "p1"]
    assert frame["clinician"].tolist() == [None, "bob", "ann", "bob", "ann"]
    assert frame["split"].tolist() == ["test", "val", "train", "train", "train"]
    assert frame["template"].tolist() == [None] * 5


def test_columns_may_stand_in_any_order_beside_others_and_the_file_may_have_another_name(tmp_path):
    head = "split,age,clinician,patient,label,map,video,sample"
    (tmp_path / "rows.csv").write_bytes(b"\xef\xbb\xbf" + f"{head}\r\ntest,7,c,p,x,,a.webm,s\r\n\r\n,,,,,,,".encode())
    frame = read_annotations(dataset(tmp_path, csv="rows.csv"))
    assert frame[["sample", "path", "clinician", "split"]].values.tolist() == [["s", "a.webm", "c", "test"]]
    assert annotation_files(dataset(tmp_path, csv="rows.csv")) == [tmp_path / "rows.csv"]
    with pytest.raises(DatasetError, match=r"clinic\.csv does not exist.*params"):
        read_annotations(dataset(tmp_path))


def test_its_manifest_has_maps_patients_and_clinicians_and_the_digest_of_the_video_alone(whole, tmp_path, clips):
    frame, quality = build_manifest(whole)
    assert set(frame["status"]) == {"ok"}
    assert frame["digest"].tolist()[:2] == [hashlib.sha256(clips[0]).hexdigest()] * 2
    assert frame["map_digest"][0] == hashlib.sha256(b"ann/p1a").hexdigest() and frame["map_digest"][4] is None
    pages = {"1.png": b"one", "2.png": b"two"}
    listing = "".join(f"{name}\0{hashlib.sha256(text).hexdigest()}\n" for name, text in pages.items())
    assert frame["map_digest"][1] == hashlib.sha256(listing.encode()).hexdigest()
    rows = shard_samples(frame, 0)
    assert [[row.map, row.map_digest] for row in rows] == frame.loc[:1, ["map", "map_digest"]].values.tolist()
    assert quality["maps"]["with"] == {"train": 3, "val": 1, "test": 0}
    assert quality["maps"]["without"] == {"train": 0, "val": 0, "test": 1}
    assert quality["maps"]["patients"] == {"train": 1, "val": 1, "test": 1}
    assert quality["maps"]["clinicians"] == {"ann": 2, "bob": 2}
    assert quality["same_content"]["count"] == 0, "two rows of one video are one video"
    assert "Patients: train (1), val (1), test (1)" in quality_markdown(quality)


def test_rows_of_one_video_share_one_look_at_it(whole, monkeypatch):
    seen: list[str] = []
    look = build.examine
    monkeypatch.setattr(build, "examine", lambda job: seen.append(job.path) or look(job))
    lines: list[str] = []
    frame, _ = build_manifest(whole, progress=lines.append)
    assert len(seen) == len(set(seen)) == 4 and lines[-1].startswith("4 of 4 videos looked at")
    assert frame.loc[0, "bytes"] == frame.loc[1, "bytes"]


def test_the_report_says_the_range_of_the_maps_so_that_a_wrong_unit_is_seen(clips, tmp_path):
    masks = {f"full{n}.npy": np.eye(4, dtype=np.uint8) * np.uint8(255) for n in range(3)}
    masks |= {"ones.npy": np.eye(4, dtype=np.uint8), "labels.npy": np.eye(4, dtype=np.uint8) * np.uint8(3)}
    masks |= {"floats.npy": np.eye(4) * 7.5, "none.npy": np.zeros((4, 4), bool)}
    for name, mask in masks.items():
        np.save(tmp_path / name, mask)
    colours = Image.fromarray(np.eye(4, dtype=np.uint8), "P")
    colours.putpalette([0, 0, 0, 128, 0, 0])
    colours.save(tmp_path / "palette.png")
    put(tmp_path, **{"videos/a.webm": clips[0]})
    lines = (f"{name},a.webm,{name},x,p,c,train" for name in (*masks, "palette.png"))
    _, quality = build_manifest(write(tmp_path, *lines))
    found = quality["maps"]
    assert found["units"] == {"255": 4, "1": 2, "its largest": 1}
    assert found["largest"] == {"min": 0.0, "median": 1.0, "max": 1.0}
    assert found["faint"] == {"count": 2, "maps": ["labels.npy", "none.npy"]}
    ((path, why),) = found["refused"]["maps"]
    assert path == "palette.png" and "palette gives a colour to each label" in why
    text = quality_markdown(quality)
    assert "divided by: 255 (4), 1 (2), its largest (1); the largest of each is then 0.0 to 1.0, median 1.0." in text
    assert "Maps that are refused: 1; palette.png cannot be read: unsupported: its palette" in text


def test_a_changed_map_changes_its_own_digest_and_nothing_else_of_the_manifest(whole, tmp_path):
    before, _ = build_manifest(whole)
    put(tmp_path, **{"maps/ann/p1b.npz": b"another"})
    after, _ = build_manifest(whole, before)
    changed = [one != other for one, other in zip(before["map_digest"], after["map_digest"], strict=True)]
    assert changed == [False, False, True, False, False]
    assert before.drop(columns="map_digest").equals(after.drop(columns="map_digest"))


def test_a_map_that_cannot_be_read_has_an_empty_digest_and_its_sample_stays_ok(whole, tmp_path):
    (tmp_path / "maps/ann/p1a.npz").unlink()
    for file in (tmp_path / "maps/bob/p1a").iterdir():
        file.unlink()
    (tmp_path / "maps/ann/p1b.npz").unlink()
    (tmp_path / "maps/ann/p1b.npz").symlink_to("/etc/hostname")
    frame, quality = build_manifest(whole)
    assert frame["map_digest"].tolist()[:3] == ["", "", ""] and set(frame["status"]) == {"ok"}
    assert quality["maps"]["unreadable"] == {"count": 3, "samples": ["p1a_ann", "p1a_bob", "p1b_ann"]}
    linked = build_manifest(whole.model_copy(update={"allow_links": True}))[0]
    assert linked["map_digest"][2] == hashlib.sha256(Path("/etc/hostname").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("x,p1/c.webm,,jerk,p1,ann,test", r"line 3 has the split 'test' for the patient 'p1', but line 2 has 'train'"),
        ("x,p1/a.webm,,jerk,p1,ann,train", r"line 3 has the label 'jerk' for the video 'p1/a.webm', but line 2 has"),
        ("x,p1/a.webm,,tremor,p9,ann,train", r"line 3 has the patient 'p9' for the video .* but line 2 has 'p1'"),
        ("p1a_ann,p1/c.webm,,jerk,p1,ann,train", r"line 3 lists 'p1a_ann', which is on line 2 already"),
        ("x,p1/c.webm,,jerk,,ann,train", "line 3 names no patient, so nothing keeps videos of one person in one split"),
        (",p1/c.webm,,jerk,p1,ann,train", "line 3 names no sample"),
        ("x,p1/c.webm,,jerk,p1,ann,validation", "line 3 has the split 'validation', wanted one of train, val, test"),
        ("x,,,jerk,p1,ann,train", "line 3 has the video '', wanted folder/file"),
        ("x,../c.webm,,jerk,p1,ann,train", r"line 3: the video '\.\.' is refused because it is empty or begins with"),
        ("x,c.webm,/etc/map.npz,jerk,p1,ann,train", "line 3 has the map '/etc/map.npz', wanted folder/file"),
        ("x,c.webm,maps/../../m.npz,jerk,p1,ann,train", r"line 3: the map '\.\.' is refused"),
        ("x,c.webm,, jerk,p1,ann,train", "line 3 has the label ' jerk', with a space around it"),
        ("x,c.webm,,jerk,p1,train", "line 3 has 6 fields, wanted 7 as on line 1; its columns are sample,video,map"),
        ('x,"c.webm,,jerk,p1,ann,train', "line 3 is not valid csv.*save it as csv in UTF-8"),
        ("x,c.webm,,jerk,P1,ann,test", "line 3 has the patient 'P1' in test, and line 2 has 'p1' in train; write one"),
        ("x,c.webm ,,jerk,p1,ann,train", "the video 'c.webm ' is refused because it has a space around it"),
        ("x,c.webm,,jerk,p1\u200b,ann,train", r"line 3 has the patient 'p1\\u200b', .*cannot be printed"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path, line, says):
    with pytest.raises(DatasetError, match=says) as caught:
        read_annotations(write(tmp_path, LINES[0], line))
    assert str(tmp_path / "clinic.csv") in str(caught.value)


def test_patients_composed_otherwise_are_one_across_splits_and_two_spellings_in_one_split_are_told(whole, tmp_path):
    lines = ["x,c.webm,,jerk,Jos\u00e9,ann,train", "y,d.webm,,jerk,Jose\u0301,ann,val"]
    with pytest.raises(
        DatasetError, match=r"line 3 has the patient 'Jose\\u0301' in val, and line 2 has 'Jos\u00e9' in tr"
    ):
        read_annotations(write(tmp_path, *lines))
    lines = [*LINES, "x,p1/c.webm,,Jerk,P1,Ann,train"]
    alike = build_manifest(write(tmp_path, *lines))[1]["alike"]
    assert {what: found["groups"] for what, found in alike.items()} == {
        "classes": [["jerk", "Jerk"]], "patients": [["p1", "P1"]], "clinicians": [["ann", "Ann"]]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "line 1 lacks the columns sample, video, map, label, patient, clinician, split"),
        (b"sample,video,map,label,patient,split\n", "line 1 lacks the columns clinician, got 'sample,video"),
        (
            f"{HEAD},label\n".encode(),
            "line 1 has the column label twice, and either may be meant; remove or rename one",
        ),
        (HEAD.replace(",", ";").encode(), "parted by ';': save it with commas"),
        (HEAD.replace(",", "\t").encode(), r"parted by '\\t': save it with commas"),
        (f"{HEAD}\n".encode(), "lists no video; write a line for each"),
        (b"\xff\xfe\x00\xd8", "not UTF-8"),
    ],
)
def test_a_file_that_is_no_such_table_is_refused(tmp_path, content, says):
    (tmp_path / "clinic.csv").write_bytes(content)
    with pytest.raises(DatasetError, match=says):
        read_annotations(dataset(tmp_path))

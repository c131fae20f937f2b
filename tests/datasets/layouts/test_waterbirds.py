"""Claims about reading WaterBirds' metadata.csv, and the manifests made of it."""

from pathlib import Path

import pytest

from pipeline.config import Dataset
from pipeline.datasets import DatasetError, annotation_files, build_manifest, quality_markdown, read_annotations
from tests.datasets.made_up import picture

HEAD = "img_id,img_filename,y,split,place,place_filename"
# The first line of the published file, and lines like it.
LINES = (
    "1,001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg,1,0,0,/b/bamboo_forest/00000131.jpg",
    "2,001.Black_footed_Albatross/Black_Footed_Albatross_0009_34.jpg,1,1,1,/o/ocean/00000002.jpg",
    "3,009.Brewer_Blackbird/Brewer_Blackbird_0137_2680.jpg,0,2,1,/o/ocean/00000003.jpg",
    "4,009.Brewer_Blackbird/Brewer_Blackbird_0028_2682.jpg,0,0,0,/b/bamboo_forest/00000004.jpg",
)


def dataset(root: Path, **fields) -> Dataset:
    return Dataset(layout="waterbirds", root=str(root), **fields)


def write(root: Path, *lines: str, head: str = HEAD) -> Dataset:
    (root / "metadata.csv").write_text("".join(f"{line}\n" for line in (head, *lines)))
    return dataset(root)


def test_y_is_the_label_and_the_place_is_kept_beside_it(tmp_path):
    frame = read_annotations(write(tmp_path, *LINES))
    assert frame["label"].tolist() == ["waterbird", "waterbird", "landbird", "landbird"]
    assert frame["split"].tolist() == ["train", "val", "test", "train"]
    assert frame["place"].tolist() == ["land", "water", "water", "land"]
    assert frame["template"].tolist() == [None] * 4


def test_a_sample_is_named_by_its_file_in_the_files_order(tmp_path):
    frame = read_annotations(write(tmp_path, *reversed(LINES)))
    assert frame["sample"].tolist() == [line.split(",")[1] for line in reversed(LINES)]
    assert frame["path"].tolist() == frame["sample"].tolist()


def test_columns_may_stand_in_any_order_and_those_that_are_not_read_may_be_absent(tmp_path):
    frame = read_annotations(write(tmp_path, "1,a/1.jpg,2,0", head="place,img_filename,split,y"))
    assert frame[["sample", "label", "split", "place"]].values.tolist() == [["a/1.jpg", "landbird", "test", "water"]]


def test_a_byte_order_mark_windows_line_ends_quotes_and_blank_lines_are_read(tmp_path):
    (tmp_path / "metadata.csv").write_bytes(b"\xef\xbb\xbf" + f'{HEAD}\r\n1,"a, b/1.jpg",1,0,0,x\r\n\r\n'.encode())
    assert read_annotations(dataset(tmp_path))["sample"].tolist() == ["a, b/1.jpg"]


def test_its_manifest_looks_at_the_listed_pictures_and_at_no_other_file(tmp_path):
    chosen = write(tmp_path, *LINES).model_copy(update={"videos": "images"})
    for seed, line in enumerate(LINES[:3]):
        file = tmp_path / "images" / line.split(",")[1]
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(file)
    picture(9).save(tmp_path / "images/unlisted.jpg")
    frame, quality = build_manifest(chosen)
    assert frame["status"].tolist() == ["ok", "ok", "ok", "missing"]
    assert frame["codec"].tolist()[:3] == ["jpeg"] * 3
    assert quality["kind"] == "image" and quality["splits"]["train"] == {"ok": 1, "missing": 1}
    assert quality["classes"]["counts"]["test"] == {"landbird": 1}
    assert "3 of 4 pictures ok" in quality_markdown(quality)


def test_metadata_csv_is_the_annotation_file_and_named_where_it_is_missing(tmp_path):
    with pytest.raises(DatasetError, match=r"metadata\.csv does not exist.*params"):
        read_annotations(dataset(tmp_path))
    assert annotation_files(write(tmp_path, *LINES)) == [tmp_path / "metadata.csv"]


def test_a_link_out_of_the_root_is_refused_unless_links_are_allowed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    write(outside, *LINES)
    (tmp_path / "root").mkdir()
    (tmp_path / "root/metadata.csv").symlink_to(outside / "metadata.csv")
    with pytest.raises(DatasetError, match=r"outside the root.*allow_links: true"):
        read_annotations(dataset(tmp_path / "root"))
    assert len(read_annotations(dataset(tmp_path / "root", allow_links=True))) == 4


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", r"line 1 lacks the columns img_filename, y, split, place.*official download"),
        (b"img_id,img_filename,y,split\n", r"line 1 lacks the columns place, got 'img_id,img_filename"),
        (f"{HEAD}\n".encode(), "lists no picture; download it again"),
        (b"\xff\xfe\x00\xd8", "not UTF-8"),
        (f'{HEAD}\n1,"a.jpg,1,0,0,x\n'.encode(), "line 2 is not valid csv"),
        (f"{HEAD}\n1,a.jpg,1,0\n".encode(), "line 2 has 4 fields, wanted 6 as on line 1; .*correct that line"),
        (f"{HEAD}\n1,a.jpg,1,0,0,x,7\n".encode(), "line 2 has 7 fields, wanted 6"),
        (f"{HEAD}\n1,a.jpg,2,0,0,x\n".encode(), r"line 2 has the y '2', wanted one of 0 \(landbird\), 1 \(waterbird\)"),
        (f"{HEAD}\n\n1,a.jpg,1,3,0,x\n".encode(), r"line 3 has the split '3', wanted one of 0 \(train\), 1 \(val\)"),
        (f"{HEAD}\n1,a.jpg,1,0,,x\n".encode(), r"line 2 has the place '', wanted one of 0 \(land\)"),
        (f"{HEAD}\n1,a.jpg,1,0,0,x\n2,a.jpg,1,0,0,x\n".encode(), "line 3 lists 'a.jpg', which is on line 2 already"),
    ],
)
def test_a_broken_file_is_an_error_that_names_it_the_line_and_the_remedy(tmp_path, content, says):
    (tmp_path / "metadata.csv").write_bytes(content)
    with pytest.raises(DatasetError, match=rf"(?s)metadata\.csv.*{says}"):
        read_annotations(dataset(tmp_path))


@pytest.mark.parametrize(
    "attack", ["../a.jpg", "/etc/passwd", "", "a//b.jpg", "a/", "a/.hidden.jpg", "a\\b.jpg", "a/\x07.jpg", "x" * 300]
)
def test_a_file_name_that_leads_out_of_the_folder_is_refused_by_its_line(tmp_path, attack):
    chosen = write(tmp_path, LINES[0], f"2,{attack},1,0,0,x")
    with pytest.raises(DatasetError, match=r"metadata\.csv: line 3.*( is refused|wanted folder/file)"):
        read_annotations(chosen)

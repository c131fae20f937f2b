"""Files and folders are whole or not there, whoever else writes them."""

import os
import threading
import time
from pathlib import Path

import pytest

from pipeline.files import whole, whole_folder, write_bytes, write_text


def test_a_file_that_is_written_in_part_is_not_there_and_leaves_nothing(tmp_path):
    (tmp_path / "a.json").write_text("before", encoding="utf-8")
    with pytest.raises(OSError), whole(tmp_path / "a.json") as scratch:
        scratch.write_text("half", encoding="utf-8")
        raise OSError(28, "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "before"


def test_a_missing_file_that_the_writer_meant_is_its_own_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"), whole(tmp_path / "a") as scratch:
        scratch.with_name("nowhere").read_bytes()
    assert not list(tmp_path.iterdir())


def test_folders_are_made_and_a_text_is_utf_8_with_its_own_ends_of_lines(tmp_path):
    write_text(tmp_path / "a" / "b" / "c.txt", "γ\r\n")
    assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == b"\xce\xb3\r\n"
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "a" / "b" / "c.txt").stat().st_mode & 0o777 == 0o666 & ~mask


def test_what_a_killed_writer_left_is_written_over(tmp_path):
    (tmp_path / ".a.json.partial").write_text("a longer text of a writer that was killed", encoding="utf-8")
    write_bytes(tmp_path / "a.json", b"{}", durable=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.json": b"{}"}


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "cache").write_text("others'", encoding="utf-8")
    (tmp_path / "a.json").symlink_to(tmp_path / "cache")
    write_text(tmp_path / "a.json", "mine")
    assert (tmp_path / "cache").read_text(encoding="utf-8") == "others'" and not (tmp_path / "a.json").is_symlink()


def many(write, count: int) -> None:
    """Calls write(number) in as many threads, each with a start of its own."""
    threads = [threading.Thread(target=write, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_of_many_writers_of_one_file_none_tears_another_s(tmp_path):
    path, torn, done = tmp_path / "result.json", [], []

    def write(number: int) -> None:
        text = str(number) * (1000 + 100 * number)
        for _ in range(5):
            with whole(path) as scratch, scratch.open("w", encoding="utf-8") as stream:
                for letter in (text[:500], text[500:]):
                    stream.write(letter)
                    stream.flush()
                    time.sleep(0.0005)
            done.append(number)
            if (read := path.read_text(encoding="utf-8")) and len(read) != 1000 + 100 * int(read[0]):
                torn.append(read)

    many(write, 8)
    assert len(done) == 40 and not torn
    assert [found.name for found in tmp_path.iterdir()] == ["result.json"]


def test_of_many_writers_of_one_folder_the_last_one_s_files_are_all_there(tmp_path):
    def write(number: int) -> None:
        with whole_folder(tmp_path / "predictions") as scratch:
            for name in range(5):
                (scratch / f"{number}-{name}").mkdir()
                time.sleep(0.001)

    (tmp_path / ".predictions.partial" / "left").mkdir(parents=True)
    many(write, 6)
    found = sorted(path.name for path in (tmp_path / "predictions").iterdir())
    assert found == [f"{found[0][0]}-{name}" for name in range(5)]
    assert [path.name for path in tmp_path.iterdir()] == ["predictions"]


def test_a_folder_that_is_written_in_part_leaves_the_one_before(tmp_path):
    (tmp_path / "predictions").mkdir()
    with pytest.raises(ValueError, match="no"), whole_folder(tmp_path / "predictions") as scratch:
        (scratch / "half").touch()
        raise ValueError("no")
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*")] == [Path("predictions")]

"""Tables are what pandas reads and writes, and no thread of Arrow's is left that could end the process as it ends."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.digests import Damaged, file_digest
from pipeline.tables import opened, proved, read_columns, read_frame, write_frame

ROOT = Path(__file__).parents[1]


def a_table() -> pd.DataFrame:
    lists = [np.arange(3, dtype=np.float32) / n for n in range(1, 4)]
    return pd.DataFrame({"sample": ["a", "β", None], "rank": [1, 2, 3], "valid": [True, False, True], "p": lists})


def test_a_table_is_what_pandas_writes_and_reads(tmp_path):
    write_frame(a_table(), tmp_path / "ours.parquet")
    for columns in (None, ["p", "sample"]):
        expected = pd.read_parquet(tmp_path / "ours.parquet", columns=columns)
        pd.testing.assert_frame_equal(read_frame(tmp_path / "ours.parquet", "", columns), expected)


def test_equal_tables_are_equal_bytes_with_checksums_of_pages_and_of_the_whole(tmp_path):
    digests = [write_frame(a_table(), tmp_path / name) for name in ("a.parquet", "b.parquet")]
    assert digests[0] == digests[1] == file_digest(tmp_path / "a.parquet") == file_digest(tmp_path / "b.parquet")
    assert proved(opened(tmp_path / "a.parquet", ""))
    assert read_columns(opened(tmp_path / "a.parquet", "")).schema.metadata.keys() == {b"pandas"}


@pytest.mark.parametrize("region", ["pages", "footer"])
def test_a_bit_that_flips_is_seen_wherever_it_is(tmp_path, region):
    write_frame(a_table(), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    for place in range(0, footer) if region == "pages" else range(footer, len(content)):
        flipped = content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]
        (tmp_path / "a.parquet").write_bytes(flipped)
        with pytest.raises(Damaged, match=r"a\.parquet .*; make it so"):
            read_frame(tmp_path / "a.parquet", "make it so")


def test_a_table_without_a_digest_is_taken_only_where_that_is_said(tmp_path):
    a_table().to_parquet(tmp_path / "old.parquet", index=False)
    with pytest.raises(
        Damaged, match=r"old\.parquet has no digest of itself: an earlier version wrote it.*; make it so"
    ):
        opened(tmp_path / "old.parquet", "make it so")
    assert not proved(opened(tmp_path / "old.parquet", "", unproved=True))


def test_another_table_than_the_one_whose_digest_is_kept_is_refused(tmp_path):
    digest = write_frame(a_table(), tmp_path / "a.parquet")
    write_frame(a_table().head(2), tmp_path / "a.parquet")
    with pytest.raises(Damaged, match="is not the file that was written"):
        read_frame(tmp_path / "a.parquet", "", digest=digest)


def test_a_table_that_is_not_there_is_that_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_frame(tmp_path / "absent.parquet", "")


THREADS = """
import os, sys
from pathlib import Path
import pandas as pd, pyarrow as pa
{imports}
before = set(os.listdir("/proc/self/task"))
path = Path(sys.argv[1])
{does}
print(len(set(os.listdir("/proc/self/task")) - before))
"""
OURS = (
    "from pipeline.tables import read_frame, write_frame\nfrom pipeline.datasets import read_manifest, write_manifest",
    "write_frame(read_frame(path / 'x.parquet', ''), path / 'y.parquet')\n"
    "frame = read_manifest(path / 'manifest.parquet')\nframe['digest'] = 'other'\n"
    "write_manifest(frame, path / 'manifest.parquet')",
)


def test_reading_and_writing_tables_leaves_no_thread_that_could_outlive_the_interpreter(tmp_path):
    from pipeline.datasets.manifest import SCHEMA, to_frame, write_manifest

    write_frame(pd.concat([a_table()] * 1000), tmp_path / "x.parquet")
    columns = {field.name: [None] * 50 for field in SCHEMA} | {"sample": list(map(str, range(50))), "shard": [0] * 50}
    import pyarrow as pa

    write_manifest(to_frame(pa.table(columns, schema=SCHEMA)), tmp_path / "manifest.parquet")

    def threads(imports: str, does: str) -> int:
        code = THREADS.format(imports=imports, does=does)
        line = [sys.executable, "-c", code, str(tmp_path)]
        return int(subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout)

    assert threads("", "pd.read_parquet(path / 'x.parquet')") > 0, "the fault can be seen"
    assert threads(*OURS) == 0


@pytest.mark.parametrize("call", ["read_parquet(", "to_parquet(", "import pyarrow.parquet", "ParquetFile("])
def test_nobody_reads_or_writes_parquet_past_these_functions(call):
    found = [path for path in (ROOT / "pipeline").rglob("*.py") if call in path.read_text(encoding="utf-8")]
    # What is exported is for other programs, which know nothing of our checksums.
    ours = {ROOT / "pipeline/tables.py", ROOT / "pipeline/exports/table.py"}
    assert set(found) <= ours

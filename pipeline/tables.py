"""Parquet tables that carry a digest of themselves, read and written in the thread that asks. Knows no column.

Arrow's own threads outlive the call that began them. One that lets go of a Python object, as of a file that Python
opened, while the interpreter ends, is unwound there, and C++ then ends the process after all of its work was done:
"terminate called without an active exception", exit status 134. So no such thread is ever started.

Pages have checksums, for whoever reads them; they do not see a flip in the footer, which says what the pages mean. So
the file's metadata hold a sha256 of the whole file, with 64 zeros in its own place.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.digests import DIGEST, Damaged, read_kept, sha256
from pipeline.files import write_bytes

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

MARK, BLANK = b"permafrost sha256 ", b"0" * 64


def opened(path: Path, remedy: str, unproved: bool = False, digest: str | None = None) -> pq.ParquetFile:
    """A Parquet file, all of it in memory, to look at before `read_columns`.

    Args:
        path: of the file.
        remedy: what to do where it is damaged, an imperative.
        unproved: takes one without a digest too, as earlier versions wrote them.
        digest: sha256 of the file, where another one keeps it.

    Raises:
        FileNotFoundError: it is not there. OSError: it cannot be read, or is a folder.
        Damaged: it is not Parquet, does not fit its digest, has none, or is another file than the digest is of.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = Path(path).read_bytes() if digest is None else read_kept(path, digest, remedy)
    place = content.rfind(MARK) + len(MARK)
    proved, told = place >= len(MARK), content[place : place + len(BLANK)]
    if proved and told != sha256(content[:place] + BLANK + content[place + len(BLANK) :]).encode():
        raise Damaged(f"{path} is damaged, or was edited: it does not fit its own digest; {remedy}")
    try:
        file = pq.ParquetFile(pa.BufferReader(content), pre_buffer=False, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise Damaged(f"{path} is not a Parquet file that can be read ({error}); {remedy}") from None
    if not proved and not unproved:
        raise Damaged(f"{path} has no digest of itself: an earlier version wrote it, or it is damaged; {remedy}")
    return file


def proved(file: pq.ParquetFile) -> bool:
    """Whether it carries a digest of itself, which `opened` has then checked."""
    return DIGEST.encode() in (file.metadata.metadata or {})


def read_columns(file: pq.ParquetFile, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of some columns, or of all. Raises Damaged: pages of a file without a digest of itself."""
    import pyarrow as pa

    columns = None if columns is None else list(columns)
    try:
        table = file.read(columns=columns, use_threads=False, use_pandas_metadata=True)
    except (pa.ArrowException, OSError) as error:
        raise Damaged(f"a table of {file.metadata.num_rows} rows is damaged ({error}); make it again") from None
    metadata = table.schema.metadata or {}
    return table.replace_schema_metadata({key: of for key, of in metadata.items() if key != DIGEST.encode()} or None)


def read_frame(
    path: Path, remedy: str, columns: Sequence[str] | None = None, digest: str | None = None
) -> pd.DataFrame:
    """A table as `write_frame` wrote it. Arguments and errors: as of `opened`."""
    return read_columns(opened(path, remedy, digest=digest), columns).to_pandas(use_threads=False)


def write_frame(frame: pd.DataFrame, path: Path) -> str:
    """Writes a table without its index, by rename. Returns the sha256 of the file."""
    import pyarrow as pa

    return write_table(pa.Table.from_pandas(frame, preserve_index=False, nthreads=1), path, compression="snappy")


def write_table(table: pa.Table, path: Path, compression: str, durable: bool = False) -> str:
    """Writes a table by rename: see `files.whole`. Returns the sha256 of the file. Equal tables are equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression=compression, write_page_checksum=True) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({DIGEST: (MARK + BLANK).decode()})
    blank = sink.getvalue().to_pybytes()
    before, after = blank[: (place := blank.rfind(MARK + BLANK) + len(MARK))], blank[place + len(BLANK) :]
    content = before + sha256(blank).encode() + after
    write_bytes(path, content, durable)
    return sha256(content)

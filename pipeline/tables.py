"""Parquet tables, read and written in the thread that asks. Knows no column.

Arrow's own threads outlive the call that began them. One that lets go of a Python object, as of a file that Python
opened, while the interpreter ends, is unwound there, and C++ then ends the process after all of its work was done:
"terminate called without an active exception", exit status 134. So no such thread is ever started.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.files import whole


@contextmanager
def opened(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file, to look at before `read_columns`.

    Raises:
        FileNotFoundError: it is not there. OSError: it cannot be read, or is a folder.
        pyarrow.ArrowInvalid: it is not Parquet.
    """
    with pa.OSFile(str(path)) as stream:
        yield pq.ParquetFile(stream, pre_buffer=False)


def read_columns(file: pq.ParquetFile, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of some columns, or of all."""
    return file.read(columns=None if columns is None else list(columns), use_threads=False, use_pandas_metadata=True)


def read_frame(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """A table as pandas wrote it. Raises what `opened` raises."""
    with opened(path) as file:
        return read_columns(file, columns).to_pandas(use_threads=False)


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    """Writes a table without its index, by rename."""
    write_table(pa.Table.from_pandas(frame, preserve_index=False, nthreads=1), path, compression="snappy")


def write_table(table: pa.Table, path: Path, compression: str, durable: bool = False) -> None:
    """Writes a table by rename: see `files.whole`."""
    with whole(path, durable) as scratch, pa.OSFile(str(scratch), "wb") as stream:
        pq.write_table(table, stream, compression=compression)

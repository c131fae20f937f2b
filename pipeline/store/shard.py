"""One finished shard as readers and `verify` see it: its manifest, and where each sample lies. Writes nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config import file_digest

from .access import File, MappedFile
from .errors import StoreCorrupt, StoreMissing
from .fields import arrays_of, parse_fields
from .layout import layout_of
from .manifest import expect_key, read_manifest


class Column(NamedTuple):
    """One array of a shard: the open file that holds it, and where each row's content begins there."""

    file: File
    offsets: list[int]


class Shard:
    """One shard's manifest, and its columns as they are asked for.

    Args:
        base: the shard's path without a suffix.
        open_file: how data files are opened.
        check: with the first column, check all but the data, which have checksums of their own.

    Raises:
        StoreMissing, StoreCorrupt, StoreError: as `read_manifest` says; StoreError: its key is not its folder's.
    """

    def __init__(self, base: Path, open_file: Callable[[Path], File] = MappedFile, check: bool = False) -> None:
        self.base, self._open_file, self._check = base, open_file, check
        self.manifest = read_manifest(base)
        expect_key(self.manifest, base)
        self.rows: list[dict[str, Any]] = self.manifest["samples"]
        self.fields = parse_fields(self.manifest["fields"])
        self.arrays = arrays_of(self.fields)
        self.layout = layout_of(base, self.arrays)
        self.remedy = f"delete {base}.json and run `extract`: it keeps what is whole and computes the rest again"
        self._columns: dict[str, Column] = {}
        self._files: dict[Path, File] = {}

    def column(self, name: str) -> Column:
        """The column of an array.

        Raises:
            StoreMissing: the data file is not there.
            StoreCorrupt: its size or its index is not what the manifest promises, or `check` found damage.
        """
        if name not in self._columns:
            self._columns[name] = self._find(name)
        return self._columns[name]

    def _find(self, name: str) -> Column:
        path, expected = self.layout.data_file(name), self.layout.size(name, self.manifest)
        if self._check and not self._columns:
            self._check_small_files()
        try:
            if path not in self._files:
                self._files[path] = self._open_file(path)
        except FileNotFoundError:
            raise StoreMissing(
                f"{path} is gone though {self.base}.json names it; {self.remedy}, or `dvc pull`"
            ) from None
        file = self._files[path]
        if file.size != expected:
            raise StoreCorrupt(f"{path} has {file.size} bytes, expected {expected}; {self.remedy}")
        try:
            if self._check:
                self.layout.check(self.manifest, file)
            return Column(file, self.layout.places(name, self.manifest, file))
        except ValueError as error:
            raise StoreCorrupt(f"{path}: {error}; {self.remedy}") from None

    def _check_small_files(self) -> None:
        """The data have their own checksums; metadata and journal have the manifest's."""
        for name, digest in self.manifest["files"].items():
            path = self.base.parent / name
            if path.name != "zarr.json" and path.suffix != ".journal":
                continue
            if not path.exists() or file_digest(path) != digest:
                raise StoreCorrupt(f"{path} does not have the sha256 of the manifest; {self.remedy}")

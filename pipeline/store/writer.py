"""Writes a shard: append-only, resumable at any point, byte-identical however often it was killed. Knows no backbone.

The order is what makes it safe: data, sync, journal line, sync for each batch; at the end what the layout makes of the
data, each file whole, synced and renamed, then the manifest. Whatever the journal does not vouch for is cut off and
redone.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from pipeline.config import canonical_json, file_digest

from .chunks import CRC_BYTES, ChunkFile
from .donor import Donor
from .durable import Lock, make_directory, replace_file, sync_directory
from .environments import Environment, distinct, listed
from .errors import StoreCorrupt, StoreError, naming_full_disk
from .fields import arrays_of, parse_fields
from .journal import Journal, JournalFile, read_journal
from .layout import layout_of, offsets_of
from .manifest import FORMAT, beside, check_format, encode_manifest, read_manifest

_DONOR_BATCH = 16
_log = logging.getLogger(__name__)


class ShardWriter:
    """The one writer of a shard, as a context manager.

    Entering it takes the shard's lock, checks the checksum of every sample that the journal says is there, cuts off
    what comes after the last batch that is whole, and copies from an earlier shard with another sample list whatever
    has the same id and digest.

    Args:
        base: features/<dataset>/<feature>-<key>/shard-000, without a suffix.
        samples: (id, sha256 of the source) of each sample; row i of the arrays is the i-th.
        fields: {name: (shape, dtype) of one sample}. A shape that begins with None is ragged: the shard is then an HDF5
            file, and all its fields are ragged. dtype "int8_scaled" is float16 in half the bytes: see `fields`.
        provenance: kept in the manifest; must hold "key". Nothing that differs between two runs belongs in it.
        environment: by what samples are computed now. The manifest's provenance lists every distinct one that its
            samples were computed by, those too that an earlier writer left or that are copied, under "environments".

    Attributes:
        kept: samples found settled on entering. dropped: samples whose data were damaged, to be computed again.
        copied: samples taken over from the shard's earlier version.

    Raises:
        StoreBusy: another writer has the shard. StoreError: a newer format, or another key. StoreFull: no space left.
    """

    def __init__(
        self,
        base: Path,
        samples: Sequence[tuple[str, str]],
        fields: Mapping[str, tuple[Sequence[int], str]],
        provenance: Mapping[str, Any],
        environment: Environment | None = None,
    ) -> None:
        self.base = Path(base)
        self._digests = dict(samples)
        if not samples or len(self._digests) != len(samples):
            raise StoreError(
                f"{self.base}: {len(samples)} samples with {len(self._digests)} different ids; ids must differ"
            )
        if "key" not in provenance:
            raise StoreError(f"{self.base}: provenance lacks the feature's key, it has {sorted(provenance)}")
        self._fields = parse_fields(fields)
        self._provenance, self._environment = dict(provenance), environment
        self._environments: list[Environment | None] = []  # of the committed batches
        self._identity = {
            "format": FORMAT,
            "key": provenance["key"],
            "fields": {name: field.describe() for name, field in self._fields.items()},
        }
        listed = canonical_json([list(pair) for pair in samples]).encode()
        self._header = {**self._identity, "samples_sha256": hashlib.sha256(listed).hexdigest()}
        self._arrays = arrays_of(self._fields)
        self._layout, self._journal_path = layout_of(self.base, self._arrays), beside(self.base, ".journal")
        self._donor = Donor(self.base, self._layout)
        self._rows: dict[str, dict[str, Any]] = {}  # committed, in the journal's order
        self._batch: dict[str, dict[str, Any]] = {}  # since the last commit
        self._files: dict[str, ChunkFile] = {}
        self._manifest: dict[str, Any] | None = None
        self._usable = False
        self.kept = self.dropped = self.copied = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack, naming_full_disk(self.base):
            make_directory(self.base.parent)
            stack.callback(Lock(beside(self.base, ".lock")).release)
            self._manifest = self._finished_manifest()
            if self._manifest is None:
                self._resume(stack)
            else:
                self._rows = {row["sample"]: row for row in self._manifest["samples"]}
                self.kept = len(self._rows)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._usable = False
        self._stack.close()

    @property
    def pending(self) -> list[str]:
        """Ids of the samples that are neither stored nor failed, in order."""
        return [sample for sample in self._digests if sample not in self._rows and sample not in self._batch]

    @property
    def failed(self) -> dict[str, str]:
        """Reason of each sample that is settled as failed."""
        rows = (self._rows | self._batch).values()
        return {row["sample"]: row["reason"] for row in rows if row["status"] == "failed"}

    @property
    def environments(self) -> list[Environment]:
        """The distinct ones that the committed samples were computed by, as far as they are known."""
        if self._manifest is not None:
            return listed(self._manifest["provenance"])
        return distinct(of for of in self._environments if of is not None)

    def put(self, sample: str, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """Appends a sample; it counts once `commit` returns. The arrays may be reused right after.

        Args:
            sample: one of `pending`.
            arrays: one for each field, of the field's shape; cast to its dtype. Ragged ones have one length, not 0.
            meta: plain JSON values kept in the manifest, such as {"times": [...], "duration": ...}.

        Raises:
            ValueError: a NaN, an infinity, a value beyond the field's dtype, or ragged fields of no or of different
                lengths: nothing was written, `fail` it instead.
            StoreError: no such pending sample or field. StoreFull: no space left; the writer is of no more use.
        """
        self._expect_pending(sample)
        if arrays.keys() != self._fields.keys():
            raise StoreError(f"sample {sample!r}: fields {sorted(arrays)}, expected {sorted(self._fields)}")
        contents: dict[str, np.ndarray] = {}
        for name, field in self._fields.items():
            contents |= field.encode(arrays[name], f"sample {sample!r}, field {name!r}")
        row = {"sample": sample, "digest": self._digests[sample], "status": "ok", "meta": dict(meta)}
        if lengths := {len(contents[name]) for name, array in self._arrays.items() if array.ragged}:
            if len(lengths) > 1 or 0 in lengths:
                raise ValueError(f"sample {sample!r}: lengths {sorted(lengths)}; ragged fields have one, and not 0")
            row["length"] = lengths.pop()
        canonical_json(row)
        self._append(row, contents)

    def fail(self, sample: str, reason: str) -> None:
        """Settles a sample as failed; it has no data and is read as an error that gives the reason."""
        self._expect_pending(sample)
        self._batch[sample] = {"sample": sample, "digest": self._digests[sample], "status": "failed", "reason": reason}

    def commit(self) -> None:
        """Makes everything since the last commit durable, all or nothing. Returns when it is on disk."""
        self._expect_usable()
        self._commit(self._environment)

    def _commit(self, environment: Environment | None) -> None:
        if not self._batch:
            return
        self._usable = False
        changed = environment != (self._environments[-1] if self._environments else None)
        with naming_full_disk(self.base):
            for file in self._files.values():
                file.sync()
            line = {"batch": list(self._batch.values())}
            self._journal.append(line | ({"environment": environment} if changed else {}))
        self._environments.append(environment)
        self._rows |= self._batch
        self._batch = {}
        self._usable = True

    def finish(self) -> dict[str, Any]:
        """Completes the shard and returns its manifest; does nothing when it was complete already.

        Raises:
            StoreError: samples are still pending.
        """
        if self._manifest is not None:
            return self._manifest
        self.commit()
        if waiting := self.pending:
            raise StoreError(
                f"{self.base}: {len(waiting)} samples are still pending, the first {waiting[0]!r}; put or fail them"
            )
        self._usable = False
        with naming_full_disk(self.base):
            self._donor.drop()
            listed = [self._rows[sample] for sample in self._digests]
            offsets = offsets_of(self._rows.values(), self._arrays)
            digests, facts = self._layout.finish(listed, self._files, offsets)
            digests[self._journal_path.name] = file_digest(self._journal_path)
            manifest = {
                **self._identity,
                **facts,
                "samples": listed,
                "counts": {status: sum(row["status"] == status for row in listed) for status in ("ok", "failed")},
                "files": digests,
                "provenance": self._provenance | ({"environments": known} if (known := self.environments) else {}),
            }
            replace_file(beside(self.base, ".json"), encode_manifest(manifest))
        self._manifest = manifest
        return manifest

    # --- within a batch -----------------------------------------------------------------------------------------------

    def _append(self, row: dict[str, Any], contents: Mapping[str, Any]) -> None:
        self._usable = False
        with naming_full_disk(self.base):
            crcs = {name: self._files[name].append(content) for name, content in contents.items()}
        self._usable = True
        self._batch[row["sample"]] = {**row, "crc32c": crcs}

    def _expect_usable(self) -> None:
        if not self._usable and self._manifest is None:
            raise StoreError(f"{self.base}: this writer is closed or was stopped by an error; open a new one to go on")

    def _expect_pending(self, sample: str) -> None:
        self._expect_usable()
        if sample not in self._digests or sample in self._rows or sample in self._batch:
            why = "was settled already" if sample in self._digests else "is not in its list"
            raise StoreError(f"{self.base}: sample {sample!r} {why}; only what `pending` names may be written")

    # --- on entering --------------------------------------------------------------------------------------------------

    def _finished_manifest(self) -> dict[str, Any] | None:
        """The manifest, if the shard is whole and for this sample list; otherwise it is removed before data change."""
        path = beside(self.base, ".json")
        if not path.exists():
            return None
        try:
            manifest = read_manifest(self.base)
            self._expect_same_feature(manifest, path)
            listed = [(row["sample"], row["digest"]) for row in manifest["samples"]]
            whole = all(
                (data := self._layout.data_file(name)).is_file()
                and data.stat().st_size == self._layout.size(name, manifest)
                for name in self._arrays
            )
            if listed == list(self._digests.items()) and whole:
                return manifest
            _log.warning(
                "%s: %s; taking over what fits", self.base, "another sample list" if whole else "data incomplete"
            )
        except StoreCorrupt as error:
            _log.warning("%s; rewriting it from the journal", error)
        path.unlink()
        sync_directory(path.parent)
        return None

    def _expect_same_feature(self, found: Mapping[str, Any], path: Path) -> None:
        check_format(dict(found), path)
        for name in ("key", "fields"):
            if found[name] != self._identity[name]:
                raise StoreError(
                    f"{path} was written with {name} {found[name]}, not {self._identity[name]}; "
                    "extract into the directory of this key, or delete the shard"
                )

    def _resume(self, stack: ExitStack) -> None:
        journal = read_journal(self._journal_path)
        if journal.header is None and journal.damage and not journal.torn:
            raise StoreCorrupt(f"{self._journal_path}, {journal.damage}; delete {self.base}.* to extract it anew")
        if journal.header is not None:
            self._expect_same_feature(journal.header, self._journal_path)
        self._layout.thaw([row for batch in journal.batches for row in batch if row["status"] == "ok"])
        if journal.header not in (None, self._header):
            self._donor.take()
            journal = Journal()
        if journal.damage and not journal.torn:
            _log.warning("%s, %s; what it held is computed again", self._journal_path, journal.damage)
        for name in self._arrays:
            self._files[name] = ChunkFile(self._layout.folder / self._layout.inside(name))
            stack.callback(self._files[name].close)
        self._keep_what_verifies(journal)
        length, crc = journal.marks[len(journal.batches)] if journal.marks else (0, 0)
        self._journal = JournalFile(self._journal_path, length, crc)
        stack.callback(self._journal.close)
        if journal.header is None:
            self._journal.append(self._header)
        self._usable = True
        self._copy_from_donor()

    def _keep_what_verifies(self, journal: Journal) -> None:
        """Takes over whole batches whose every chunk fits its checksum; cuts the data and `journal` after them."""
        offsets = offsets_of((row for batch in journal.batches for row in batch), self._arrays)
        for number, batch in enumerate(journal.batches):
            bad = [row["sample"] for row in batch if row["status"] == "ok" and not self._is_stored(row, offsets)]
            if bad:
                self.dropped = sum(map(len, journal.batches[number:]))
                _log.warning(
                    "%s: data of sample %r do not fit their crc32c; %d samples from its batch on are computed again",
                    self.base, bad[0], self.dropped,
                )  # fmt: skip
                del journal.batches[number:], journal.environments[number:]
                break
            self._rows |= {row["sample"]: row for row in batch}
        kept = [row for row in self._rows.values() if row["status"] == "ok"]
        for name, file in self._files.items():
            file.keep(sum(self._arrays[name].nbytes_in(row) + CRC_BYTES for row in kept))
        self._environments = list(journal.environments)
        self.kept = len(self._rows)
        _log.info("%s: %d of %d samples settled, their checksums verified", self.base, self.kept, len(self._digests))

    def _is_stored(self, row: Mapping[str, Any], offsets: Mapping[str, Mapping[str, int]]) -> bool:
        return all(
            self._files[name].holds(offsets[name][row["sample"]], array.nbytes_in(row), row["crc32c"][name])
            for name, array in self._arrays.items()
        )

    def _copy_from_donor(self) -> None:
        """Takes over pending samples with the same id and digest, if their bytes fit their checksums."""
        donated = self._donor.rows()
        wanted = [sample for sample in self.pending if (sample, self._digests[sample]) in donated]
        if not wanted:
            return
        # Batches by place in the list, not by what is left of it, so that a killed copy ends with the same bytes.
        place = {sample: number // _DONOR_BATCH for number, sample in enumerate(self._digests)}

        def together(sample: str) -> tuple[int, Environment | None]:
            return place[sample], donated[sample, self._digests[sample]][2]

        with ExitStack() as stack:
            data = self._donor.open(stack)
            for (_, environment), group in groupby(wanted if data else (), key=together):
                for sample in group:
                    row, offsets, _ = donated[sample, self._digests[sample]]
                    if row["status"] == "failed":
                        self._batch[sample] = row
                    elif contents := data.read(row, offsets):
                        self._append(row, contents)
                self.copied += len(self._batch)
                self._commit(environment)

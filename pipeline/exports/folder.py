"""A folder of exported files: whose they are, what is done, and what they hold together. Knows no extraction."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.datasets.manifest import EXTRACTED
from pipeline.digests import read_json, write_json
from pipeline.exports.croissant import describe
from pipeline.exports.formats import SUFFIX, export, whole_there
from pipeline.exports.notes import Notes
from pipeline.files import lock, write_text
from pipeline.store import FeatureStore

WORK = ".permafrost"  # in a folder of exported files: their manifest, what is done, the shard that is being computed
INDEX, FAILURES, CROISSANT, CARD = "index.json", "failures.json", "croissant.json", "README.md"
AGAIN = "delete it, and run the same command again"


class ExportError(ValueError):
    """Files that cannot be written where they are asked for; the message gives the remedy."""


@contextmanager
def held(home: Path, out: Path) -> Iterator[None]:
    """The lock of a folder that is written. Raises ExportError: another one has it, or it cannot be written."""
    try:
        descriptor = lock(home / EXTRACTED)
    except BlockingIOError:
        raise ExportError(f"{out}: another extraction is writing there; wait for it, or name another --out") from None
    except OSError as error:
        raise ExportError(f"{out} is no folder that can be written ({error.strerror}); name another --out") from None
    try:
        yield
    finally:
        os.close(descriptor)


class ExportFolder:
    """Files of one feature in one format, shard by shard: a shard that is done, and whole, is not written again.

    Args:
        out: the folder, under `held`.
        form: one of EXPORTS.
        name: of the feature: <feature>-<key>.
    """

    def __init__(self, out: Path, form: str, name: str) -> None:
        self.out, self.form, self.name = out, form, name
        self.records = out / WORK / f"{name}.{form}"

    def expect_mine(self, fresh: bool) -> None:
        """Refuses a folder with files of something else.

        Args:
            fresh: nothing was ever exported into it.

        Raises:
            ExportError: names what is there, and the remedy.
        """
        if fresh:
            suffix = SUFFIX[self.form]
            found = next(self.out.rglob(f"*{suffix}"), None)
            for name in (INDEX, CROISSANT, *((CARD,) if self.form == "datasets" else ())):
                found = found or next(self.out.glob(name), None)
            if found is not None:
                raise ExportError(
                    f"{found} was made by something else, and might be replaced; name another --out, or move that "
                    "file away"
                )
        mine = self.records.name
        others = [path.name for path in (self.out / WORK).glob("*.*") if path.is_dir() and path.name != mine]
        if others:
            raise ExportError(
                f"{self.out} holds {others[0].rpartition('.')[2]} files of {others[0].rpartition('.')[0]}, and these "
                f"would be {self.form} of {self.name}: one would replace the other; name another --out"
            )

    def known(self, shard: int, content: str) -> dict[str, Any] | None:
        """What is known of a shard that is done, of this content, and whole; None of any other."""
        done = self._record(shard)
        if not done.exists():
            return None
        known = read_json(done, AGAIN)
        whole = known["content"] == content and whole_there(self.out, known["files"])
        return known if whole else None

    def write(self, store: FeatureStore, shard: int, content: str, notes: Notes) -> dict[str, Any]:
        """Exports a shard's store, and notes that it is done. `content` changes if, and only if, what is written does.

        Files of an earlier version of the shard that are not its any more are removed.
        """
        earlier = read_json(self._record(shard), AGAIN)["files"] if self._record(shard).exists() else {}
        record: dict[str, Any] = {"content": content, "files": export(store, self.out, self.form, shard, notes)}
        record["samples"] = {id: {**store.meta(id), **notes.of.get(id, {})} for id in store.samples}
        record |= {"failed": store.failed, "provenance": store.provenance, "fields": store.fields}
        write_json(self._record(shard), record)
        for name in earlier:
            if name not in record["files"]:
                (self.out / name).unlink(missing_ok=True)
        return record

    def finish(self, details: Mapping[str, str], notes: Notes, about: Mapping[str, str]) -> None:
        """Writes what all shards hold together, for people and for other programs: index, failures, Croissant.

        Args:
            details: id -> why it failed, where more is known than the store says.
            notes: of all samples.
            about: `name`, `license` and `url` of the Croissant, where somebody said them.
        """
        records = [read_json(path, AGAIN) for path in sorted(self.records.glob("shard-*.json"))]
        failed = {id: details.get(id, reason) for record in records for id, reason in record["failed"].items()}
        samples = {id: meta for record in records for id, meta in record["samples"].items()}
        files = {name: of for record in records for name, of in record["files"].items()}
        head = {"format": self.form, "feature": self.name, "provenance": records[0]["provenance"]}
        write_json(self.out / FAILURES, failed, ordered=True)
        write_json(self.out / INDEX, head | {"files": files, "samples": samples}, ordered=True)
        told = describe(self.form, self.name, files, records[0]["fields"], notes, len(samples), len(failed), about)
        write_text(self.out / CROISSANT, told.croissant)
        if told.card:
            write_text(self.out / CARD, told.card)

    def _record(self, shard: int) -> Path:
        return self.records / f"shard-{shard:03d}.json"

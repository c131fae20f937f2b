"""Reads Something-Something-V2's annotation files as published. Opens no video, imports no torch: runs at plan time.

The published layout, all of it in the data set's root or in its folder `labels`:
    labels.json         {"Holding something next to something": "42", ...}; templates without their brackets
    train.json          [{"id": "78687", "label": "holding potato next to vicks vaporub bottle",
    validation.json       "template": "Holding [something] next to [something]", "placeholders": [...]}, ...]
    test.json           [{"id": "1420"}, ...]; optional, and without labels
    test-answers.csv    1420;Holding something next to something; optional, the labels of test.json published later
Each may carry the older download's prefix instead: something-something-v2-train.json.

Source: Goyal et al., ICCV 2017, https://arxiv.org/abs/1706.04261, and the files of the public download.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.config import Annotations, Dataset, Layout
from pipeline.config.documents import loaded_json
from pipeline.datasets.folders import followed, home_of
from pipeline.datasets.names import DatasetError, check_file_name
from pipeline.datasets.twins import but_for_looks

PREFIX = "something-something-v2-"
SPLITS = ("train", "validation", "test")
REMEDY = "get the label files of the official download, or correct the data set's root in params"


class SSv2(Layout):
    """Something-Something-V2: templates, and a video a line of its json files."""

    kind = "video"

    def annotations(self, dataset: Dataset) -> Annotations:
        """One row a sample, in the order train, validation, test, and in file order within each.

        An id that is listed again counts where it came first, so that nothing in train is ever evaluated on; the others
        are listed twice, as [sample, split that counts, split ignored].

        Returns:
            Columns `sample`, `path` (POSIX, relative to the videos' folder), `label` (key of labels.json, or None where
            the set has none), `split`, `template` (as published, or None).

        Raises:
            DatasetError: a file is absent, broken or a link out of the root, an id cannot be a file name, a label is
                not in labels.json, or an id is listed with two labels.
        """
        self.files(dataset)
        root = Path(dataset.root)
        labels = _read_json(_required(root, "labels.json"), dict)
        rows: dict[str, tuple[str, str, str | None, str, str | None]] = {}
        listed_twice = []
        for split in SPLITS:
            for sample, label, template, origin in _entries(root, split, labels):
                path = check_file_name(f"{sample}{dataset.extension}", str(origin))
                if sample not in rows:
                    rows[sample] = (sample, path, label, split, template)
                    continue
                _, _, other_label, other_split, _ = rows[sample]
                if label != other_label and label is not None and other_label is not None:
                    raise DatasetError(
                        f"{origin}: id {sample!r} is labelled {label!r} in {split} and {other_label!r} in "
                        f"{other_split}; keep one of the two"
                    )
                listed_twice.append([sample, other_split, split])
        names = ("sample", "path", "label", "split", "template")
        columns = {name: [row[place] for row in rows.values()] for place, name in enumerate(names)}
        return Annotations(columns, listed_twice)

    def files(self, dataset: Dataset) -> list[Path]:
        """Labels, train and validation, then test and its answers where they are.

        Raises:
            DatasetError: one that must be there is not, or one is a link that leads out of the root.
        """
        root = Path(dataset.root)
        required = [_required(root, name) for name in ("labels.json", "train.json", "validation.json")]
        optional = [_find(root, name) for name in ("test.json", "test-answers.csv")]
        files = required + [path for path in optional if path is not None]
        for path in files:
            followed(path, home_of(dataset))
        return files


def _entries(root: Path, split: str, labels: dict[str, Any]) -> Iterator[tuple[str, str | None, str | None, Path]]:
    """Yields (id, label, template, file). Texts that recur are one object, so that 220,847 rows stay small."""
    origin = _find(root, "test.json") if split == "test" else _required(root, f"{split}.json")
    if origin is None:
        return
    answers = _read_answers(root, labels) if split == "test" else {}
    known: dict[str, tuple[str, str]] = {}
    for number, entry in enumerate(_read_json(origin, list)):
        if not isinstance(entry, dict) or "id" not in entry:
            raise DatasetError(
                f"{origin}: entry {number} has no id, got {str(entry)[:80]}; each is an object with an id"
            )
        sample, template = _id(entry["id"], number, origin), entry.get("template")
        if template is None and split == "test":
            yield sample, answers.get(sample), None, origin
            continue
        if not isinstance(template, str):
            raise DatasetError(f"{origin}: id {sample!r} has the template {template!r}, wanted text; {REMEDY}")
        if template not in known:
            known[template] = (_label(template, labels, sample, origin), template)
        yield sample, *known[template], origin


def _id(value: Any, number: int, origin: Path) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or str(value) != str(value).strip():
        raise DatasetError(
            f"{origin}: entry {number} has the id {value!r}; an id is text without a space around it, or a whole number"
        )
    return str(value)


def _label(template: str, labels: dict[str, Any], sample: str, origin: Path) -> str:
    """The key of labels.json for a template: the template with its brackets removed."""
    label = template.replace("[", "").replace("]", "")
    if label not in labels:
        raise DatasetError(
            f"{origin}: id {sample!r} has the label {label!r}, which is not among the {len(labels)} of labels.json"
            f"{but_for_looks(label, labels)}; use the labels.json of the same release, or correct the template"
        )
    return label


def _read_answers(root: Path, labels: dict[str, Any]) -> dict[str, str]:
    """The labels of the test split, by id; empty where there are none. Ids that test.json lacks do no harm."""
    origin = _find(root, "test-answers.csv")
    if origin is None:
        return {}
    answers: dict[str, str] = {}
    for number, line in enumerate(_read_text(origin).splitlines(), 1):
        sample, separator, template = line.partition(";")
        if not line.strip():
            continue
        if not separator:
            raise DatasetError(f"{origin}: line {number} is {line[:80]!r}, wanted id;label; {REMEDY}")
        label = _label(template.strip(), labels, sample.strip(), origin)
        if answers.setdefault(sample.strip(), label) != label:
            raise DatasetError(f"{origin}: id {sample.strip()!r} is listed with two labels; keep one of the two")
    return answers


def _find(root: Path, name: str) -> Path | None:
    """The first of <name>, <prefix><name> in the root, then in its folder `labels`."""
    return next((path for path in _places(root, name) if path.is_file()), None)


def _required(root: Path, name: str) -> Path:
    path = _find(root, name)
    if path is None:
        looked = ", ".join(str(place) for place in _places(root, name))
        raise DatasetError(f"{name} of Something-Something-V2 is missing, looked for {looked}; {REMEDY}")
    return path


def _places(root: Path, name: str) -> list[Path]:
    return [folder / f"{prefix}{name}" for folder in (root, root / "labels") for prefix in ("", PREFIX)]


def _read_json(path: Path, wanted: type) -> Any:
    def refusal(twice: str) -> DatasetError:
        return DatasetError(f"{path} has the key {twice!r} twice in one object, and either may be meant; remove one")

    try:
        document = loaded_json(_read_text(path), refusal)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DatasetError(f"{path} is not valid JSON: {error}; download it again") from None
    if not isinstance(document, wanted):
        kind = {dict: "an object (template: id)", list: "a list of entries"}[wanted]
        raise DatasetError(f"{path} must hold {kind} at its top, got {type(document).__name__}; {REMEDY}")
    return document


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 text: {error}; download it again") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}; check its permissions") from None

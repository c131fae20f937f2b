"""What exported files are, for programs that know nothing of them: Croissant 1.0, and the card of a `datasets` folder.

Source: MLCommons Croissant Format Specification 1.0.
"""

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from pipeline.exports.notes import ALL, Notes

CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{
        term: f"cr:{term}"
        for term in (
            *("citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet"),
            *("format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet"),
            *("references", "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField"),
            "transform",
        )
    },
}
# Encoding of the files of a format, and the pattern that takes them all.
FILES = {
    "npy": ("application/octet-stream", "**/*.npy"),
    "npz": ("application/zip", "**/*.npz"),
    "webdataset": ("application/x-tar", "*.tar"),
    "datasets": ("application/x-parquet", "data/*/*.parquet"),
}
LISTED = ("webdataset", "datasets")  # whose files are few enough to be listed with their digests


class Described(NamedTuple):
    """The text of croissant.json, and of README.md, empty where the format needs none."""

    croissant: str
    card: str


def describe(
    form: str,
    name: str,
    files: Mapping[str, Mapping[str, Any]],
    fields: Mapping[str, Any],
    notes: Notes,
    samples: int,
    failed: int,
    about: Mapping[str, str],
) -> Described:
    """What the files of a format hold.

    Args:
        form: the format. name: <feature>-<key>.
        files: name -> bytes and sha256.
        fields: name -> (shape, dtype) of a sample.
        notes: labels and splits.
        samples, failed: how many.
        about: `license` and `url`, where somebody said them: neither is known otherwise.
    """
    shapes = "; ".join(f"{field} {tuple(shape)} {dtype}" for field, (shape, dtype) in fields.items())
    text = f"Features {name} of {samples} samples ({failed} failed, see failures.json), extracted once: {shapes}."
    encoding, pattern = FILES[form]
    document: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": text,
        **{key: about[key] for key in ("license", "url") if about.get(key)},
    }
    listed = files if form in LISTED else {}
    document["distribution"] = [
        {
            "@type": "cr:FileObject",
            "@id": file,
            "name": file,
            "contentUrl": file,
            "encodingFormat": encoding,
            "contentSize": f"{of['bytes']} B",
            "sha256": of["sha256"],
        }
        for file, of in listed.items()
    ]
    document["distribution"].append(
        {"@type": "cr:FileSet", "@id": "files", "name": "files", "encodingFormat": encoding, "includes": pattern}
    )
    if form == "datasets":
        document["recordSet"] = [_records(fields, notes)]
    croissant = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    return Described(croissant, _card(name, text, files) if form == "datasets" else "")


def _records(fields: Mapping[str, Any], notes: Notes) -> dict[str, Any]:
    """The rows of the tables, a field a column that is text or numbers."""
    types = {"id": "sc:Text", "digest": "sc:Text"} | {name: _type(dtype) for name, (_, dtype) in fields.items()}
    types |= {name: "sc:Integer" for name in ("label",) if name in notes.known and name not in fields}
    return {
        "@type": "cr:RecordSet",
        "@id": "samples",
        "name": "samples",
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"samples/{name}",
                "name": f"samples/{name}",
                "dataType": kind,
                **({"repeated": True} if name in fields else {}),
                "source": {"fileSet": {"@id": "files"}, "extract": {"column": name}},
            }
            for name, kind in types.items()
        ],
    }


def _type(dtype: str) -> str:
    return "sc:Float" if np.dtype(dtype).kind == "f" else "sc:Integer"


def _card(name: str, text: str, files: Mapping[str, Any]) -> str:
    """README.md, whose head tells `datasets.load_dataset(folder)` which files are which split."""
    splits = dict.fromkeys(PurePosixPath(file).parent.name for file in files) or {ALL: None}
    lines = [f"  - split: {split}\n    path: data/{split}/*.parquet" for split in splits]
    head = "\n".join(["configs:", "- config_name: default", "  data_files:", *lines])
    return f"---\n{head}\n---\n# {name}\n\n{text}\n\nindex.json has their provenance and digests.\n"

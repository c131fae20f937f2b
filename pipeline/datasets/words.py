"""Reads a folder of word lists, one lemma a line, as WordNet's lexicographer files. Imports no torch: plan time.

The data set's `root` is the folder: files `noun.*`, then `adj.*`, each kind in sorted order. `_` in a lemma is a space;
of a word that is there again the first counts. A sample is a word, its label its kind: `noun` or `adjective`.
"""

from pathlib import Path

import pandas as pd

from pipeline.config import Dataset
from pipeline.datasets.names import DatasetError
from pipeline.datasets.texts import SPLIT, lines_of

KINDS = {"noun": "noun", "adj": "adjective"}  # how a file begins, what its words are


def read_annotations(dataset: Dataset) -> pd.DataFrame:
    """One row a word: nouns, then adjectives, each in the order of their files and lines.

    Returns:
        Columns `sample` (the word), `label` ("noun" or "adjective"), `path`, `template` (None), `split` ("all"); all
        of them objects.

    Raises:
        DatasetError: the folder is absent or has no such file, or a file is not UTF-8 or holds no word.
    """
    kind_of: dict[str, str] = {}
    for path in annotation_files(dataset):
        for _, line in lines_of(path):
            kind_of.setdefault(line.replace("_", " "), KINDS[path.name.split(".")[0]])
    frame = pd.DataFrame({"sample": list(kind_of), "label": list(kind_of.values())}, dtype=object)
    return frame.assign(path=None, split=SPLIT, template=None).astype(object)


def annotation_files(dataset: Dataset) -> list[Path]:
    """The lists, in the order in which they are read: a folder's own order differs from machine to machine.

    Raises:
        DatasetError: the folder is absent or has no list.
    """
    folder = Path(dataset.root)
    found = [path for kind in KINDS for path in sorted(folder.glob(f"{kind}.*")) if path.is_file()]
    if not found:
        raise DatasetError(
            f"{folder} holds no word list, wanted files named noun.* or adj.* with a lemma a line; correct the data "
            "set's root in params"
        )
    return found

"""Reads a folder of word lists, one lemma a line, as WordNet's lexicographer files. Imports no torch: plan time.

The data set's `root` is the folder: files `noun.*`, then `adj.*`, each kind in sorted order, `.txt` behind it or not.
`_` in a lemma is a space; of a word that is there again the first counts. A sample is a word, its label its kind:
`noun` or `adjective`.
"""

import re
from pathlib import Path

from pipeline.config import Annotations, Dataset, Layout
from pipeline.datasets.layouts.texts import SPLIT, lines_of
from pipeline.datasets.names import DatasetError

KINDS = {"noun": "noun", "adj": "adjective"}  # how a file begins, what its words are
# noun.animal, adj.all.txt; not noun.animal.bak, noun.animal~, nor what WordNet calls noun.exc.
LIST = re.compile(r"\w+\.(?!(?:bak|orig|old|swp|tmp|exc)$)[\w-]+(\.txt)?")
# Of WordNet's own files: "{ dog, canine1,@ (a gloss) }", "(a comment)".
NOTATION = re.compile(r"[{}\[\]@]|,$|,\s|^\(")


class Words(Layout):
    """A folder of word lists."""

    kind = "text"

    def annotations(self, dataset: Dataset) -> Annotations:
        """One row a word: nouns, then adjectives, each in the order of their files and lines.

        Returns:
            Columns `sample` (the word), `label` ("noun" or "adjective"), `split` ("all").

        Raises:
            DatasetError: the folder is absent or has no such file, a file has another name than a list has, is not
                UTF-8 or holds no word, or a line is no lemma.
        """
        kind_of: dict[str, str] = {}
        for path in self.files(dataset):
            for number, line in lines_of(path):
                word = " ".join(line.replace("_", " ").split())
                if not word or NOTATION.search(line):
                    raise DatasetError(
                        f"{path}: line {number} is {line[:80]!r}, wanted a lemma, as domestic_dog; write the lemmas "
                        "alone, one a line"
                    )
                kind_of.setdefault(word, KINDS[path.name.split(".")[0]])
        return Annotations({"sample": list(kind_of), "label": list(kind_of.values()), "split": SPLIT})

    def files(self, dataset: Dataset) -> list[Path]:
        """The lists, in the order in which they are read: a folder's own order differs from machine to machine.

        Raises:
            DatasetError: the folder is absent or has no list, or a file is named nearly like one.
        """
        folder = Path(dataset.root)
        found = [path for kind in KINDS for path in sorted(folder.glob(f"{kind}.*")) if path.is_file()]
        if not found:
            raise DatasetError(
                f"{folder} holds no word list, wanted files named noun.* or adj.* with a lemma a line; correct the "
                "data set's root in params"
            )
        if strange := [path for path in found if not LIST.fullmatch(path.name)]:
            raise DatasetError(
                f"{strange[0]} is not named like a word list (noun.animal, adj.all.txt), and all that begin so are "
                "read; remove it, or rename it"
            )
        return found

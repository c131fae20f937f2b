"""From word lists in the cache to negative words with their roles: a table that people can read and share.

Opens stores of texts alone. Shape suffixes: M words, C classes, E embedding width.
"""

import io
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from pipeline.datasets.manifest import read_manifest
from pipeline.datasets.twins import refuse_one_text
from pipeline.digests import read_json, read_kept, sha256, write_json
from pipeline.files import write_bytes, write_text
from pipeline.heads.negalign.words import ROLES, candidate_scores, mine, role_scores, roles, without
from pipeline.runs import Run
from pipeline.store import FeatureStore
from pipeline.training.dataset import DataError, content_digest, refuse_mixed

TABLE = "negatives.csv"
ORIGIN = "negatives.json"  # what the table was mined from, and its digest
TEXT_ROLES = ("words", "words.plain", "words.object", "words.background")


def mine_negatives(run: Run) -> pd.DataFrame:
    """NegMine and the split by role: negatives.csv in the run's folder, and a text file a role with a word a line.

    Returns:
        A row a word, in NegMine's order: word, kind, score (quantile of its cosines with the classes), r (positive
        for objects), role.

    Raises:
        DataError: a head that asks for no words, an ID class without an embedding, or settings that keep no word.
    """
    config, folder = run.config, run.folder
    if not hasattr(config, "words"):
        raise DataError(f"{run.head} compares with no negative words; name a head of the kind negalign")
    stores = {role: FeatureStore(run.features[role], verify=True) for role in TEXT_ROLES}
    refuse_mixed(run.params.compute, [*stores.values(), FeatureStore(run.features["classes"])])
    listed = texts(run, "words")
    unread = {word for store in stores.values() for word in store.failed}
    names, classes_CE = embedded(run, "classes")
    words = [word for word in without(list(listed), names) if word not in unread]
    kinds = [listed[word] for word in words]
    try:
        scores_M = candidate_scores(vectors(stores["words"], words), classes_CE, config.words.quantile)
        kept = mine(scores_M, kinds, config.words.top_p)
        chosen = [words[i] for i in kept]
        r_M = role_scores(*(vectors(stores[role], chosen) for role in TEXT_ROLES[1:]))
        found = roles(r_M, config.words.roles.mode, config.words.roles.value)
    except ValueError as error:
        raise DataError(f"heads.{run.head}.words: {error}") from error
    columns = {"kind": [kinds[i] for i in kept], "score": scores_M[kept].tolist(), "r": r_M.tolist(), "role": found}
    table = pd.DataFrame({"word": chosen, **columns})
    folder.mkdir(parents=True, exist_ok=True)
    for role in ROLES:
        lines = [f"{word}\n" for word, its in zip(chosen, found, strict=True) if its == role]
        write_text(folder / f"{role}.txt", "".join(lines))
    (folder / ORIGIN).unlink(missing_ok=True)  # of the table before
    content = table.to_csv(index=False).encode()
    write_bytes(folder / TABLE, content)
    write_json(folder / ORIGIN, {TABLE: sha256(content), **origin(run)})
    return table


def origin(run: Run) -> dict[str, str]:
    """What negative words are mined from, beside the stores, which the run's key names: the words and the classes."""
    return {role: content_digest(list(texts(run, role).items())) for role in ("words", "classes")}


def read_negatives(run: Run) -> tuple[pd.DataFrame, str]:
    """The table of negative words in a run's folder, all of it text, and the sha256 of the file.

    Raises:
        DataError: there is none, it is no table of words, or was mined from other texts than the manifests hold now.
        Damaged: it is not the table that was mined. One that a person brought has no negatives.json beside it.
    """
    path, mined = run.folder / TABLE, run.folder / ORIGIN
    if not path.exists():
        raise DataError(f"{path} does not exist: mine the negative words first (`mine {run.head}`)")
    again = f"mine the words again (`mine {run.head}`)"
    if not mined.exists():
        content = path.read_bytes()
    else:
        then, now = read_json(mined, again), origin(run)
        content = read_kept(path, then[TABLE], f"{again}, or delete {mined} where you mean the table to be this one")
        if changed := [role for role in now if then.get(role) != now[role]]:
            raise DataError(
                f"{path} was mined from other {changed[0]} than the manifest of "
                f"{run.config.inputs[changed[0]].dataset} has now; run `snakemake`, or {again}"
            )
    try:
        table = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    except ValueError as error:
        raise DataError(f"{path} is no table of words ({error}); delete it and {again}") from None
    if absent := [column for column in ("word", "role") if column not in table]:
        raise DataError(f"{path} has no column {absent[0]!r}; delete it and {again}")
    return table, sha256(content)


def texts(run: Run, role: str) -> dict[str, str]:
    """Text -> label ("" where there is none) of the data set of texts of a role, in the order of its lists."""
    frame = read_manifest(run.root / run.config.inputs[role].dataset / "manifest.parquet")
    return dict(zip(frame["sample"], frame["label"].fillna(""), strict=True))


def embedded(run: Run, role: str) -> tuple[list[str], Tensor]:
    """The texts of the data set of a role, and their unit vectors (C, E).

    Raises:
        DataError: a text has no embedding.
        DatasetError: two texts have one.
    """
    dataset = run.config.inputs[role].dataset
    names, store = list(texts(run, role)), FeatureStore(run.features[role], verify=True)
    for name in names:
        if name in store.failed:
            raise DataError(f"the text {name!r} of {dataset} has no embedding: {store.failed[name]}; correct the list")
    found_CE = vectors(store, names)
    refuse_one_text(names, names, dataset, found_CE.numpy())
    return names, found_CE


def vectors(store: FeatureStore, names: Sequence[str]) -> Tensor:
    """(M, E) float32, as stored."""
    ((field, _),) = store.fields.items()
    return torch.from_numpy(store.read(list(names), field)).float()

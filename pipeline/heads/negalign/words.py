"""Negative words: mining, and the split into object and background words. Knows no file and no model.

Shape suffixes: M words, C classes, E embedding width. Vectors are unit vectors.
Sources: Jiang et al., "Negative Label Guided OOD Detection with Pretrained Vision-Language Models", ICLR 2024 (mining).
"""

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

KINDS = ("noun", "adjective")
ROLES = ("object", "background", "ambiguous")

CHUNK = 1 << 21  # numbers of an array that is made on the way: 8 MiB, large enough for matmul, small enough for caches
TOLERANCE = 1e-2  # of a unit vector's norm: fp16 and int8 stores are well within, an embedding as CLIP gives it is not


def without(words: Sequence[str], classes: Sequence[str]) -> list[str]:
    """The words that are no name of an ID class, in order; capitals, `_` and outer white space make no difference.

    Raises:
        ValueError: there is no word, or none is left.

    >>> without(["sea lion", "Gull", "oak"], classes=["gull", "Sea_lion"])
    ['oak']
    """
    named = {_plain(name) for name in classes}
    kept = [word for word in words if _plain(word) not in named]
    if not kept:
        raise ValueError(
            f"{len(words)} candidate words and none is left without the names of {len(named)} ID classes; give a word "
            "list that holds other words, one a line"
        )
    return kept


@torch.no_grad()
def candidate_scores(words_ME: Tensor, classes_CE: Tensor, quantile: float) -> Tensor:
    """How near each word comes to the ID classes; low ones make good negatives.

    Args:
        quantile: over the classes, between ranks by straight lines. NegLabel and CSP 0.95, NegRefine 1 (the maximum).

    Returns:
        (M,) cosines.

    Raises:
        ValueError: a vector is no unit vector or not finite, widths disagree, or `quantile` is not in [0, 1].

    >>> candidate_scores(torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6]]), 0.5)
    tensor([0.8000, 0.6000])
    """
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile is {quantile}, expected one in [0, 1]")
    words_ME, classes_CE = unit_rows(words=words_ME, classes=classes_CE)
    return torch.cat(
        [(words_ME[rows] @ classes_CE.T).quantile(quantile, dim=1) for rows in chunks(len(words_ME), len(classes_CE))]
    )


def mine(scores_M: Tensor, kinds: Sequence[str], top_p: float) -> list[int]:
    """The words of lowest score, of nouns and of adjectives each their own share (NegMine).

    Args:
        scores_M: of `candidate_scores`.
        kinds: "noun" or "adjective", for each word.
        top_p: the share that is kept, in (0, 1]; of n words of a kind, floor(top_p * n).

    Returns:
        Positions in the list: nouns first, then adjectives, each from the lowest score up, equals in the list's order.

    Raises:
        ValueError: lengths disagree, a score is not finite, a kind is unknown, or no word is kept.

    >>> mine(torch.tensor([0.3, 0.1, 0.2, 0.1, 0.0]), ["noun"] * 4 + ["adjective"], 0.5)
    [1, 3]
    """
    if len(scores_M) != len(kinds):
        raise ValueError(f"{len(scores_M)} scores of {len(kinds)} words; give one a word")
    if strange := set(kinds) - set(KINDS):
        raise ValueError(f"words of kind {sorted(strange)}, expected {KINDS}; correct the kinds of the word lists")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}, expected a share in (0, 1]")
    _refuse_nan("score of a word", scores_M)
    order = scores_M.argsort(stable=True).tolist()
    kept = []
    for kind in KINDS:
        own = [i for i in order if kinds[i] == kind]
        kept += own[: _share(top_p, len(own))]
    if not kept:
        counts = ", ".join(f"{list(kinds).count(kind)} {kind}s" for kind in KINDS)
        raise ValueError(f"top_p {top_p} of {counts} keeps no word; raise top_p or give longer word lists")
    return kept


@torch.no_grad()
def role_scores(plain_ME: Tensor, object_ME: Tensor, background_ME: Tensor) -> Tensor:
    """r = cos(plain, object) - cos(plain, background): is a word rather a thing or rather a place or texture?

    Args:
        plain_ME: of "a {word}".
        object_ME: mean over prompts that show a thing ("a close-up photo of a {word}"), unit.
        background_ME: the same over prompts of backgrounds ("a texture of {word}").

    Returns:
        (M,) in [-2, 2], high for objects.

    Raises:
        ValueError: shapes disagree, or a vector is no unit vector or not finite.
    """
    if not plain_ME.shape == object_ME.shape == background_ME.shape:
        raise ValueError(
            f"vectors of shapes {tuple(plain_ME.shape)} (plain), {tuple(object_ME.shape)} (object) and "
            f"{tuple(background_ME.shape)} (background), expected one of each a word"
        )
    plain, thing, place = unit_rows(plain=plain_ME, object=object_ME, background=background_ME)
    return (plain * thing).sum(dim=1) - (plain * place).sum(dim=1)


def roles(r_M: Tensor, mode: str, value: float) -> list[str]:
    """ "object", "background" or "ambiguous" for each word.

    Args:
        r_M: of `role_scores`.
        mode: "tau": object above `value`, background below -`value`.
            "percentile": object the highest `value` % of the words, background the lowest (each floor(value % of M);
            of equals the earlier words are nearer to background).
        value: tau >= 0, or percent in [0, 50].

    Raises:
        ValueError: mode or value is none of these, or r is not finite.

    >>> r = torch.tensor([0.2, -0.3, 0.01, 0.04])
    >>> roles(r, "tau", 0.05)
    ['object', 'background', 'ambiguous', 'ambiguous']
    >>> roles(r, "percentile", 45)
    ['object', 'background', 'ambiguous', 'ambiguous']
    """
    _refuse_nan("role score of a word", r_M)
    if mode == "tau" and value >= 0:
        return ["object" if r > value else "background" if r < -value else "ambiguous" for r in r_M.tolist()]
    if mode == "percentile" and 0 <= value <= 50:
        order, found = r_M.argsort(stable=True).tolist(), ["ambiguous"] * len(r_M)
        count = _share(value, len(order), 100)
        for i in order[:count]:
            found[i] = "background"
        for i in order[len(order) - count :]:
            found[i] = "object"
        return found
    raise ValueError(
        f"mode {mode!r} with {value}, expected 'tau' with a value >= 0 or 'percentile' with one in [0, 50]"
    )


def by_role(words: Sequence[str], found: Sequence[str | None], classes: Sequence[str]) -> dict[str, list[int]]:
    """Positions of the words of each role, and a check of a list that a person may have written.

    Args:
        words: the negatives, in order.
        found: the role of each.
        classes: names of the ID classes.

    Returns:
        Role -> positions, ascending; every role is there.

    Raises:
        ValueError: no word, a word without a role or of an unknown one, or an ID class among the words.

    >>> by_role(["cup", "sand"], ["object", "background"], ["gull"])
    {'object': [0], 'background': [1], 'ambiguous': []}
    """
    if not words:
        raise ValueError("the list of negative words is empty; mine one, or give a file with one word a line")
    if len(words) != len(found):
        raise ValueError(f"{len(words)} negative words and {len(found)} roles; give each word one of {ROLES}")
    wrong = {word: role for word, role in zip(words, found, strict=True) if role not in ROLES}
    if wrong:
        word, role = next(iter(wrong.items()))
        raise ValueError(
            f"{len(wrong)} of {len(words)} negative words have no known role, the first {word!r} with {role!r}; "
            f"give each one of {ROLES}"
        )
    named = {_plain(name) for name in classes}
    if own := [word for word in words if _plain(word) in named]:
        raise ValueError(
            f"{len(own)} of {len(words)} negative words are ID classes, the first {own[0]!r}: pictures of them would "
            "count as out of distribution; remove them from the word list"
        )
    return {role: [i for i, one in enumerate(found) if one == role] for role in ROLES}


def unit_rows(**named: Tensor) -> tuple[Tensor, ...]:
    """The tensors, checked and of one dtype: the widest of theirs, single precision at least.

    Args:
        named: (rows, E), for each the name that errors give it.

    Raises:
        ValueError: one has no rows or another width, or a row's norm is not 1 (within 1 %) or not finite.

    >>> [x.dtype for x in unit_rows(images=torch.eye(2).half(), classes=torch.eye(2).double())]
    [torch.float64, torch.float64]
    """
    dtype = torch.float32
    for x in named.values():
        dtype = torch.promote_types(dtype, x.dtype)
    first, width = next((name, x.shape[-1]) for name, x in named.items())
    checked = []
    for name, x in named.items():
        if x.ndim != 2 or not len(x):
            raise ValueError(f"{name} are of shape {tuple(x.shape)}, expected (rows, width) with one vector at least")
        if x.shape[1] != width:
            raise ValueError(f"{first} are {width} wide and {name} {x.shape[1]}; take both from one CLIP")
        x = x.to(dtype)
        norm = torch.linalg.vector_norm(x, dim=1)
        wrong = ~((norm - 1).abs() <= TOLERANCE)  # NaN too
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"row {row} of {name} has norm {float(norm[row])}, expected 1; divide each vector by its norm, and "
                "extract anew what is not finite"
            )
        checked.append(x)
    return tuple(checked)


def chunks(rows: int, width: int, size: int | None = None) -> list[slice]:
    """Slices of `rows` that hold at most `size` (CHUNK) numbers of a (rows, width) array, one row at least.

    >>> chunks(5, 3, size=6)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = max(1, (CHUNK if size is None else size) // max(width, 1))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _plain(name: str) -> str:
    return name.replace("_", " ").strip().casefold()


def _share(part: float, count: int, whole: int = 1) -> int:
    """floor(part / whole * count), as people write `part`: 0.29 of 100 is 29, in binary it is 28.999...

    >>> _share(0.29, 100), _share(45, 10, 100)
    (29, 4)
    """
    return int(Fraction(str(part)) * count / whole)


def _refuse_nan(what: str, x: Tensor) -> None:
    if not x.isfinite().all():
        row = int((~x.isfinite()).nonzero()[0][0])
        raise ValueError(f"{what} is {float(x[row])} in row {row}, expected a finite number; extract its vector anew")

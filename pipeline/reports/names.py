"""Names that users chose, as renderers may have them: no markup, and apart even where they are cut. Knows no file."""

from collections.abc import Sequence


def shortened(text: str, longest: int) -> str:
    """A text of at most `longest` letters, its middle left out.

    Of several names use `told_apart`, which keeps them different.

    >>> shortened("Moving something up", 11)
    'Movin…ng up'
    """
    if len(text) <= longest:
        return text
    return f"{text[: longest // 2]}…{text[-(longest - 1 - longest // 2) :]}"


def told_apart(names: Sequence[str], longest: int) -> list[str]:
    """Names of `longest` letters, or of the fewest more with which no two look the same.

    The words that all names begin with go first: what they share tells nothing apart.

    >>> told_apart(["turn the red ring", "turn the blue ring"], 11)
    ['…red ring', '…blue ring']
    >>> told_apart(["turn the red ring", "turn the blue ring", "drop the ring"], 11)
    ['turn t…d ring', 'turn t…e ring', 'drop the ring']
    """
    if any(len(name) > longest for name in names) and (shared := _shared_words(names)):
        names = [f"…{name[shared:]}" for name in names]
    for letters in range(longest, max(map(len, names), default=0)):
        cut = [shortened(name, letters) for name in names]
        if len(set(cut)) == len(set(names)):
            return cut
    return list(names)


def _shared_words(names: Sequence[str]) -> int:
    """How many letters all names begin with, up to the end of a word; 0 where there is one name only."""
    first, last = min(names), max(names)
    apart = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    return first.rfind(" ", 0, apart) + 1


def words(names: Sequence[str]) -> list[str]:
    """Names as files that part them by spaces may hold them: "_" for a space; two that become one get a number.

    >>> words(["pour tea", "pour_tea", "cut"])
    ['pour_tea', 'pour_tea_2', 'cut']
    """
    taken: dict[str, None] = {}
    for name in names:
        word = plain = "_".join(name.split())
        number = 2
        while word in taken:
            word, number = f"{plain}_{number}", number + 1
        taken[word] = None
    return list(taken)

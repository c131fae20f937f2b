"""Markdown that people read: texts as they are, and tables of them. Knows no file and no figure."""

import re
from collections.abc import Iterable, Sequence

# What Markdown would read; an underscore inside a word is none.
_MARKS = re.compile(r"[\\`*<>|\[\]~$]|(?<![^\W_])_|_(?![^\W_])")


def escaped(text: object) -> str:
    """A text on one line as Markdown shows it, in a table's cell too.

    >>> escaped("a|b"), escaped("<b> *x* tea_cup _x")
    ('a\\\\|b', '\\\\<b\\\\> \\\\*x\\\\* tea_cup \\\\_x')
    """
    return _MARKS.sub(lambda match: f"\\{match[0]}", " ".join(str(text).split()))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; head and cells are Markdown already.

    >>> print(table(["class", "frames"], [["a", "**3**"]]))
    | class | frames |
    |---|---|
    | a | **3** |
    """
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])

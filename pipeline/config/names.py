"""Names that people give, and the files that are named after them: none may be taken for another. Knows no section."""

from collections.abc import Iterable, Mapping

# Of files in results/ that are named after nothing.
RESERVED = {
    "ablations": "the folder of their tables",
    "claims": "the check of what params claim",
    "report": "the page of all results",
    "searches": "the folder of their tables",
}


def refuse_clashing_files(folder: str, named: Mapping[str, str]) -> None:
    """Refuses names after which two would write one file, on file systems too that do not tell capitals apart.

    Args:
        folder: of the files; only "results" has reserved names.
        named: dotted key in params -> the name that it gives.

    Raises:
        ValueError: names both keys, the file and the remedy.

    >>> refuse_clashing_files("results", {"heads.a.result": "x", "heads.b.result": "y"})
    >>> refuse_clashing_files("results", {"heads.a.result": "x", "heads.b.result": "X"})
    Traceback (most recent call last):
    ValueError: heads.b.result is 'X' and heads.a.result is 'x': both would write results/X; give one another name
    """
    owners: dict[str, str] = {}
    for key, name in named.items():
        if folder == "results" and (whose := RESERVED.get(name.casefold())):
            raise ValueError(f"{key} is {name!r}, which in {folder}/ is {whose}; give it another name")
        if (owner := owners.setdefault(name.casefold(), key)) != key:
            raise ValueError(
                f"{key} is {name!r} and {owner} is {named[owner]!r}: both would write {folder}/{name}; give one "
                "another name"
            )


def refuse_twins(section: str, names: Iterable[str]) -> None:
    """Refuses names that differ in capitals alone, where folders bear them. Raises ValueError with both.

    >>> refuse_twins("datasets", ["gtea", "GTEA"])
    Traceback (most recent call last):
    ValueError: datasets.GTEA and datasets.gtea differ in capitals alone, and their folders could be one; rename one
    """
    first: dict[str, str] = {}
    for name in names:
        if (other := first.setdefault(name.casefold(), name)) != name:
            raise ValueError(
                f"{section}.{name} and {section}.{other} differ in capitals alone, and their folders could be one; "
                "rename one"
            )

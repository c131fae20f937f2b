"""What people write as params, as plain values: YAML 1.2 and JSON. Knows no model.

Numbers and words are those of YAML 1.2's core schema: 1e-3 is a number, 010 is ten, 0o10 eight, and `yes`, `1:30` and
`2024-01-01` are texts. Whoever reads a document, the command line or Snakemake, reads it here.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from .base import ParamsError, shown

# Characters, and one more a value, that a document may unfold to: aliases of aliases are as large as one likes.
LARGEST = 1_000_000
# Digits of a number: more than any that a person means, and fewer than Python refuses to read.
LONGEST = 400

# What a study holds.
STUDY = ("ablations", "claims", "searches")

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
# Source: YAML 1.2.2, section 10.3.2; merge keys are 1.1's, which everybody still reads.
_SCALARS = {
    "null": (r"~|null|Null|NULL|", "~nN"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "merge": (r"<<", "<"),
}


class _Loader(yaml.SafeLoader):
    """PyYAML's scanner, parser and composer; its resolver is given the scalars above, its constructor is not used."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012  (PyYAML's own name and place)


for _name, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"^(?:{_pattern})$"), [*_first, ""])


def read_document(path: str | Path, option: str = "--params") -> dict[str, Any]:
    """The mapping that a YAML (or JSON) file holds.

    Args:
        path: of the file.
        option: by which another one is named, for errors.

    Raises:
        ParamsError: the file cannot be read, or not as a mapping; names it, and the line.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ParamsError(f"{path} does not exist; run from the project's root or name a file with {option}") from None
    except IsADirectoryError:
        raise ParamsError(f"{path} is a folder; name a file with {option}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ParamsError(f"{path}, line {line}: is not UTF-8 text ({error.reason}); save it as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise ParamsError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return _mapping(read_yaml(text, str(path)), str(path))


def loaded_json(text: str, refusal: Callable[[str], Exception]) -> Any:
    """What a JSON text holds, where no object has a key twice: Python would keep the last one. Raises as `json.loads`.

    Args:
        text: the document.
        refusal: of a key that is there twice; raised.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise refusal(next(name for name in names if names.count(name) > 1))
        return found

    return json.loads(text, object_pairs_hook=unique)


def read_json(text: str, origin: str) -> dict[str, Any]:
    """The mapping that a JSON text holds. Raises ParamsError, which names `origin`."""

    def refusal(twice: str) -> ParamsError:
        return ParamsError(f"{origin}: the key {shown(repr(twice))} is given twice; remove one")

    try:
        return _mapping(loaded_json(text, refusal), origin)
    except ParamsError:
        raise
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ParamsError(f"{origin} is not valid JSON, {where}: {error.msg}") from None
    except RecursionError:
        raise ParamsError(f"{origin} is nested too deeply") from None
    except ValueError as error:  # thousands of digits
        raise ParamsError(f"{origin} is not valid JSON: {error}") from None


def read_yaml(text: str, origin: str) -> Any:
    """The value of a YAML text: what `--set` and `--config` are given, too.

    Args:
        text: one document.
        origin: named in errors.

    Raises:
        ParamsError: one line, with the line of the text: a syntax error, a key that stands in a mapping twice, a tag;
            or more than `LARGEST` characters behind aliases.

    >>> read_yaml("{lr: 1e-3, size: 010, mask: 0x10, on: yes, day: 2024-01-01}", "doctest")
    {'lr': 0.001, 'size': 10, 'mask': 16, 'on': 'yes', 'day': '2024-01-01'}
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
        return None if node is None else _Construction(origin).document(node)
    except ParamsError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise ParamsError(f"{origin} is not valid YAML{where}: {what}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ParamsError(
            f"{origin} is not valid YAML, line {line}: holds the character U+{error.character:04X}, which is none of "
            "a text"
        ) from None
    except RecursionError:
        raise ParamsError(f"{origin} is nested too deeply") from None
    except (ValueError, OverflowError) as error:  # "\UFFFFFFFF": no character
        raise ParamsError(f"{origin} is not valid YAML: {error}") from None


class _Construction:
    """Nodes to plain values, aliases unfolded."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.sizes: dict[yaml.Node, int] = {}
        self.within: list[yaml.Node] = []

    def document(self, node: yaml.Node) -> Any:
        """The value of the whole, which is measured first: memory is taken only for what has a size."""
        if (size := self._size(node)) > LARGEST:
            raise ParamsError(
                f"{self.origin}: its aliases unfold to {size:,} characters, expected at most {LARGEST:,}; write values "
                "out, or use fewer aliases"
            )
        return self._value(node, "")

    def _size(self, node: yaml.Node) -> int:
        if node in self.within:
            raise self._error(node, "", "holds itself; write the value out")
        if node not in self.sizes:
            self.within.append(node)
            if isinstance(node, yaml.ScalarNode):
                size = len(node.value)
            elif isinstance(node, yaml.MappingNode):
                size = sum(self._size(part) for pair in node.value for part in pair)
            else:
                size = sum(map(self._size, node.value))
            self.sizes[node] = 1 + size
            self.within.pop()
        return self.sizes[node]

    def _value(self, node: yaml.Node, key: str) -> Any:
        """The value of a node; `key` is the dotted name of its place."""
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, key)
        wanted = "map" if isinstance(node, yaml.MappingNode) else "seq"
        if node.tag != f"{_TAG}{wanted}":
            raise self._tag(node, key)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key)
        return [self._value(item, _dotted(key, number)) for number, item in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, key: str) -> dict[str, Any]:
        lines: dict[str, int] = {}
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode):
                raise self._error(name, key, "has a key that is no text; quote it")
            # As it is written: a class may be called 1 or no.
            text = name.value
            place = _dotted(key, text)
            if text in lines:
                raise self._error(name, place, f"given in line {lines[text]} already; remove one of the two")
            lines[text] = name.start_mark.line + 1
            if name.tag == _MERGE:
                for other in reversed(value.value if isinstance(value, yaml.SequenceNode) else [value]):
                    if not isinstance(other, yaml.MappingNode):
                        raise self._error(other, place, "merges what is no mapping; name one with *")
                    merged |= self._value(other, place)
            elif name.tag not in {f"{_TAG}{kind}" for kind in ("str", *_SCALARS)}:
                raise self._tag(name, place)
            else:
                own[text] = self._value(value, place)
        return {**merged, **own}

    def _scalar(self, node: yaml.ScalarNode, key: str) -> Any:
        kind, text = node.tag.removeprefix(_TAG), node.value
        if kind == "merge" or node.tag == f"{_TAG}str":
            text.encode()  # a lone surrogate is a ValueError
            return text
        if node.tag == kind or kind not in _SCALARS:
            raise self._tag(node, key)
        if not re.fullmatch(_SCALARS[kind][0], text):
            raise self._error(node, key, f"is tagged as {kind}, but {shown(text)} is none")
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if len(text) > LONGEST:
            raise self._error(node, key, f"is a number of {len(text)} characters; round it")
        if kind == "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))

    def _tag(self, node: yaml.Node, key: str) -> ParamsError:
        tag = node.tag.replace(_TAG, "!!")
        return self._error(node, key, f"has the tag {tag}, and params hold plain values alone; remove it")

    def _error(self, node: yaml.Node, key: str, what: str) -> ParamsError:
        where = f": {shown(key)}" if key else ""
        return ParamsError(f"{self.origin}, line {node.start_mark.line + 1}{where}: {what}")


def _dotted(key: str, part: str | int) -> str:
    return f"{key}.{part}" if key else str(part)


def _mapping(document: Any, origin: str) -> dict[str, Any]:
    if not isinstance(document, dict):
        what = "nothing" if document is None else type(document).__name__
        raise ParamsError(f"{origin} must hold a mapping at its top, got {what}")
    return document


def assigned(entry: str, option: str) -> tuple[str, Any]:
    """The key and the value, which is YAML, of what follows an option: "model.fusion=concat".

    Raises:
        ParamsError: no `=`, or no YAML behind it.

    >>> assigned("lr=1e-3", "--set")
    ('lr', 0.001)
    """
    key, equals, text = entry.partition("=")
    if not equals or not key:
        raise ParamsError(f"{option} {shown(entry)}: expected key=value, as in model.fusion=concat")
    return key, read_yaml(text, f"{option} {shown(entry)}")


def merged(*documents: Mapping[str, Any]) -> dict[str, Any]:
    """Documents laid over each other: mappings key by key, of all else the last one counts.

    >>> merged({"a": {"b": 1, "c": [2]}}, {"a": {"c": [3]}, "d": 4})
    {'a': {'b': 1, 'c': [3]}, 'd': 4}
    """
    found: dict[str, Any] = {}
    for document in documents:
        for key, value in document.items():
            both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
            found[key] = merged(found[key], value) if both else value
    return found


class Written(NamedTuple):
    """A params document as people wrote it.

    Args:
        document: of all files, with their studies.
        origin: what it is called in errors.
        files: that were read, studies among them.
        origins: of an ablation or claim that stands in a study, "ablations.NAME" or "claims.NAME": the file.
    """

    document: dict[str, Any]
    origin: str
    files: tuple[str, ...] = ()
    origins: Mapping[str, str] = {}


def read_documents(paths: Sequence[str | Path], entries: Sequence[str] = (), option: str = "--configfile") -> Written:
    """Each file with its studies, laid over those before it, and then the entries of `--config`, key=value.

    Raises:
        ParamsError: as `read_document`; a study that holds anything else than ablations and claims; a name that stands
            in two files of one set; a folder of studies that is not there.
    """
    found = [_with_studies(str(path), option) for path in paths]
    changes = (dict([assigned(entry, "--config")]) for entry in entries)
    return Written(
        merged(*(written.document for written in found), *changes),
        " with ".join([*map(str, paths), *(["--config"] if entries else [])]),
        tuple(file for written in found for file in written.files),
        {key: file for written in found for key, file in written.origins.items()},
    )


def read_laid(files: Sequence[str | Path], entries: Sequence[str] = ()) -> Written:
    """What Snakemake is called with: each file laid over those before it, then the entries of --config.

    Args:
        files: of `--configfile`, at least one; named in errors as they lie from here.
        entries: of `--config`: key=value, the value YAML as in the files.

    Raises:
        ParamsError: as `read_documents`.
    """
    return read_documents([os.path.relpath(file) for file in files], entries)


def _with_studies(path: str, option: str) -> Written:
    """A params file and each study in the folder that its key `studies` names, which lies beside it."""
    document = read_document(path, option)
    if "studies" not in document:
        return Written(document, path, (path,))
    named = document.pop("studies")
    if not isinstance(named, str):
        raise ParamsError(f"{path}: studies must be the path of a folder, got {shown(repr(named))}")
    folder = os.path.normpath(os.path.join(os.path.dirname(path), named))
    if not os.path.isdir(folder):
        raise ParamsError(
            f"{path}: studies names the folder {folder}, which does not exist; make it, or remove the line"
        )
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise ParamsError(
            f"{path}: studies names the folder {folder}, which cannot be read: {error.strerror}"
        ) from None
    # What is hidden is an editor's.
    files = [
        os.path.join(folder, name) for name in names if name.endswith((".yaml", ".yml")) and not name.startswith(".")
    ]
    origins = {f"{section}.{name}": path for section in STUDY for name in _section(document, section, path)}
    parts = []
    for file in files:
        parts.append(read_document(file, option))
        if unknown := [key for key in parts[-1] if key not in STUDY]:
            raise ParamsError(f"{file}: unknown key {shown(unknown[0])}; a study holds {', '.join(STUDY)}")
        for key in (f"{section}.{name}" for section in STUDY for name in _section(parts[-1], section, file)):
            if (other := origins.setdefault(key, file)) != file:
                raise ParamsError(f"{shown(key)} is in {other} and in {file}; rename one")
    in_studies = {key: file for key, file in origins.items() if file != path}
    return Written(merged(document, *parts), path, (path, *files), in_studies)


def _section(document: Mapping[str, Any], section: str, file: str) -> Mapping[str, Any]:
    found = document.get(section, {})
    if not isinstance(found, Mapping):
        raise ParamsError(f"{file}: {section} must be a mapping, got {type(found).__name__}")
    return found

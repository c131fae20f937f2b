"""What code decides: the modules that a module imports, and a digest of what they do. Imports none of them.

A comment, a docstring and the way lines are broken do nothing, so they are in no digest.
"""

import ast
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any


def imported(*modules: str, within: Iterable[str]) -> list[str]:
    """The modules, and all that they import, directly or not, of some packages; sorted.

    What a package's __init__ only passes on is followed to it, as where `from package import name` is written.

    Args:
        modules: dotted names.
        within: dotted names of packages or modules; others are not followed.

    Raises:
        ModuleNotFoundError: one of the modules has no source.
    """
    inside = tuple(within)
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += _imports(module, inside)
    return sorted(found)


def digest(*modules: str) -> str:
    """sha256 of what modules do: of their syntax, each with its name. The same in every version of Python.

    Raises:
        ModuleNotFoundError: one of them has no source.
    """
    parts = "".join(f"{module}\0{_syntax(*_place(module))}\0" for module in sorted(modules))
    return hashlib.sha256(parts.encode()).hexdigest()


def files(*modules: str) -> list[Path]:
    """The files of modules. Raises ModuleNotFoundError: one of them has no source."""
    return [_place(module)[0] for module in modules]


def _inside(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _source(module: str) -> Path | None:
    """The file of a module's source; None where there is no such module, or it has none. Imports no package."""
    top, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # of __main__
        return None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    path = Path(spec.origin)
    if not inner:
        return path if path.is_file() else None  # in a zip
    folder = path.parent.joinpath(*inner) if spec.submodule_search_locations else path / "none"
    return next((file for file in (folder / "__init__.py", folder.with_suffix(".py")) if file.is_file()), None)


def _compiled(module: str) -> bool:
    """Whether a module is there, and is no Python: of what is not there, as an optional one, nothing is decided."""
    above, _, name = module.rpartition(".")
    package = _source(above) if above else None
    return bool(package) and any((package.parent / f"{name}{suffix}").is_file() for suffix in EXTENSION_SUFFIXES)


def _imports(module: str, inside: Iterable[str]) -> Iterator[str]:
    """What a module imports of some packages. Only of these is it looked up what a name is: of all would be slow."""
    for names in _imported(module, *_place(module)):
        if any(_inside(name, inside) for name in names):
            place = next((name for name in names if _source(name) or _compiled(name)), None)
            if place and _inside(place, inside):
                yield place


@cache
def _imported(module: str, path: Path, state: tuple[int, ...]) -> list[tuple[str, ...]]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return list(dict.fromkeys(_import_names(package, _tree(path, state))))


def _import_names(package: str, tree: ast.Module) -> Iterator[tuple[str, ...]]:
    """Of each name that is imported, the modules that it may mean: the first one that is there."""
    waiting: list[Any] = [tree]
    while waiting:
        node = waiting.pop()
        # Statements alone: among expressions, most of a tree, there is no import.
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting += found if isinstance(found := getattr(node, field, None), list) else []
        if isinstance(node, ast.Import):
            yield from ((alias.name,) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.rsplit(".", node.level - 1)[0]
                base = f"{above}.{base}" if base else above
            # Of a package its module is meant, if it has one of that name.
            yield from ((f"{base}.{alias.name}", base) for alias in node.names)


def _place(module: str) -> tuple[Path, tuple[int, ...]]:
    path = _source(module)
    if path is None:
        raise ModuleNotFoundError(f"{module} has no source that could enter a key")
    status = path.stat()
    return path, (status.st_mtime_ns, status.st_size, status.st_ino)


@cache
def _tree(path: Path, state: tuple[int, ...]) -> ast.Module:
    return ast.parse(path.read_bytes())


@cache
def _syntax(path: Path, state: tuple[int, ...]) -> str:
    return _text(_tree(path, state))


def _text(node: Any) -> str:
    """A syntax tree without docstrings, places in the file and fields that are empty: those differ by version."""
    if isinstance(node, list):
        return "[" + ",".join(map(_text, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    parts = []
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            value = value[1:] if ast.get_docstring(node, clean=False) is not None else value
        if value is not None and value != [] and name not in ("type_comment", "kind"):
            parts.append(f"{name}={_text(value)}")
    return f"{type(node).__name__}({','.join(parts)})"

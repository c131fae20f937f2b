"""What a digest of code sees, and what is imported, found without an import."""

import sys
from importlib.machinery import EXTENSION_SUFFIXES
from zipfile import ZipFile

import pytest

from pipeline.sources import digest, imported


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function that writes a module of a package `apart`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "apart").mkdir()

    def written(**modules: str) -> None:
        for name, text in modules.items():
            path = (tmp_path / "apart").joinpath(*name.split("__"))
            path.parent.mkdir(exist_ok=True)
            path.with_suffix(".py").write_text(text, encoding="utf-8")

    written(**{"init": ""})
    (tmp_path / "apart" / "__init__.py").write_text("", encoding="utf-8")
    return written


def test_comments_docstrings_and_line_breaks_are_in_no_digest(write):
    write(a='"""One."""\n\ndef f(x):\n    """Two."""\n    return x + 1  # three\n')
    before = digest("apart.a")
    write(a='# Four.\n"""Five."""\ndef f(\n    x,\n):\n    return (\n        x + 1)\n')
    assert digest("apart.a") == before
    write(a="def f(x):\n    return x + 2\n")
    assert digest("apart.a") != before


def test_a_text_that_is_no_docstring_is_in_it(write):
    write(a="NAME = 'one'\n")
    before = digest("apart.a")
    write(a="NAME = 'other'\n")
    assert digest("apart.a") != before


def test_a_module_s_place_is_in_it(write):
    write(a="X = 1\n", b="X = 1\n")
    assert digest("apart.a") != digest("apart.b")


def test_imports_are_followed_wherever_and_however_they_are_written(write):
    write(
        a="from . import b\nfrom .c import x\nimport json\n",
        b="def late():\n    import apart.d\n    return apart.d\n",
        c="from apart import e\nx = 1\n",
        d="",
        e="from .inner import deep\n",
        f="",
        inner__deep="",
    )
    (init := sys.path[0] + "/apart/inner/__init__.py")
    with open(init, "w", encoding="utf-8"):
        pass
    found = imported("apart.a", within=["apart"])
    assert found == ["apart.a", "apart.b", "apart.c", "apart.d", "apart.e", "apart.inner.deep"]
    assert not any(name.startswith("apart") for name in sys.modules), "nothing was imported for it"
    assert imported("apart.a", within=["apart.c"]) == ["apart.a", "apart.c"]


def test_a_ring_of_imports_ends(write):
    write(a="from . import b\n", b="from . import a\n")
    assert imported("apart.a", within=["apart"]) == ["apart.a", "apart.b"]


def test_an_optional_module_that_is_not_there_decides_nothing_and_one_that_is_compiled_is_an_error(write, tmp_path):
    text = "try:\n    from ._fast import scale\nexcept ImportError:\n    scale = {}\n"
    write(a=text.format(1))
    assert imported("apart.a", within=["apart"]) == ["apart.a"]
    write(_fast="scale = 2\n", a=text.format(11))
    assert imported("apart.a", within=["apart"]) == ["apart._fast", "apart.a"]
    (tmp_path / "apart/_fast.py").rename(tmp_path / f"apart/_fast{EXTENSION_SUFFIXES[-1]}")
    for text in ("from ._fast import scale\n", "from . import _fast\n", "import apart._fast\n"):
        write(a=text)
        with pytest.raises(ModuleNotFoundError, match=r"apart\._fast has no source"):
            imported("apart.a", within=["apart"])


def test_a_module_in_an_archive_is_an_error(tmp_path, monkeypatch):
    with ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.writestr("in_an_archive.py", "X = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path / "packed.zip"))
    with pytest.raises(ModuleNotFoundError, match="in_an_archive has no source"):
        digest("in_an_archive")


def test_what_has_no_source_is_an_error():
    with pytest.raises(ModuleNotFoundError, match="nowhere has no source"):
        digest("nowhere")

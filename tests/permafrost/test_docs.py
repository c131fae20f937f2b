"""docs/using-the-stores.md says what happens: its examples run, one after another, in a small finished project."""

import doctest
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "using-the-stores.md"


def test_the_examples_of_the_page_run(project, capsys):
    blocks = re.findall(r"^```python\n(>>> .*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    page = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, PAGE.name, str(PAGE), 0)
    result = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF).run(page)
    assert result.failed == 0, capsys.readouterr().out
    assert result.attempted > 30 and len(blocks) == 5


def test_the_probe_is_of_ten_lines():
    text = PAGE.read_text(encoding="utf-8").split("## A linear probe")[1].split("## ")[0]
    assert text.count(">>> ") <= 10

"""What Snakemake prints of an error that a person can correct."""

import pytest

from pipeline.config import ParamsError
from pipeline.refusals import CannotPlan, plainly


def told(error: Exception, monkeypatch) -> str:
    """As Snakemake prints what an input function raised: raised through code of ours, and then through its own."""
    # Here: whoever collects tests needs no Snakemake, of half a second.
    from snakemake import rules
    from snakemake.exceptions import InputFunctionException, format_exception_to_string

    monkeypatch.setattr(rules, "InputFunctionException", InputFunctionException)
    plainly()

    class Rule:
        name, lineno, snakefile = "train", 5, "heads.smk"
        workflow = type("Workflow", (), {"linemaps": {}})

    def function():
        raise error

    with pytest.raises(Exception) as raised:
        try:
            function()
        except Exception as found:
            raise rules.InputFunctionException(found, rule=Rule(), wildcards={"head": "probe"})  # noqa: B904
    return format_exception_to_string(raised.value, {})


def test_an_error_of_ours_is_its_sentence_alone(monkeypatch):
    assert told(ParamsError("heads.probe: correct it"), monkeypatch) == "CannotPlan:\nheads.probe: correct it"


def test_of_any_other_error_snakemake_says_where_it_comes_from(monkeypatch):
    said = told(ZeroDivisionError("a bug"), monkeypatch)
    assert "ZeroDivisionError: a bug" in said and "head=probe" in said and f'File "{__file__}"' in said


def test_what_leaves_a_snakefile_has_no_lines_of_it():
    from snakemake.exceptions import format_exception_to_string

    with pytest.raises(CannotPlan) as raised:
        raise CannotPlan("params.yaml cannot be used")
    assert format_exception_to_string(raised.value, {__file__: {}}) == "CannotPlan:\nparams.yaml cannot be used"

"""Claims about the documents that people write: what is a number, what is refused, and with which line."""

import json
from pathlib import Path

import pytest
import yaml

from pipeline.config import ParamsError, load_params, parse_params, parse_written, read_laid, read_yaml
from pipeline.config.documents import LARGEST, merged, read_document, read_json

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("+.5", 0.5),
        ("1.", 1.0),
        ("010", 10),
        ("0o10", 8),
        ("0x10", 16),
        ("-0", 0),
        ("true", True),
        ("FALSE", False),
        ("", None),
        ("~", None),
        ("yes", "yes"),
        ("off", "off"),
        ("y", "y"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z"),
        ("0b11", "0b11"),
        ("-0x10", "-0x10"),
        ("=", "="),
        ("'1e-3'", "1e-3"),
        ("!!str 1", "1"),
        ("!!float 1", 1.0),
        ("[1e-3, {a: 010}]", [0.001, {"a": 10}]),
        ("{1: a, yes: b, null: c}", {"1": "a", "yes": "b", "null": "c"}),
        ("{a: &x {b: 1, c: 2}, d: {<<: *x, c: 3}}", {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}),
        ("\ufeffa: 1", {"a": 1}),
    ],
    ids=repr,
)
def test_numbers_and_words_are_those_of_yaml_1_2(text, value):
    found = read_yaml(text, "here")
    assert found == value and type(found) is type(value)


def test_infinity_and_not_a_number_are_read_for_the_models_to_refuse():
    assert [str(number) for number in read_yaml("[.inf, -.Inf, .NaN, 1e999]", "here")] == ["inf", "-inf", "nan", "inf"]


def bomb(depth: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, depth)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: a: given in line 1 already; remove one of the two"),
        ("a:\n  b: 1\n  'b': 2\n", "line 3: a.b: given in line 2 already; remove one of the two"),
        ("{1: a, '1': b}", "line 1: 1: given in line 1 already; remove one of the two"),
        ("- - {a: 1,\n    a: 2}", "line 2: 0.0.a: given in line 1 already; remove one of the two"),
        ("a: !thing 1", "line 1: a: has the tag !thing, and params hold plain values alone; remove it"),
        ("a: !!set {b}", "line 1: a: has the tag !!set, and params hold plain values alone; remove it"),
        ("a: !!python/object/apply:os.system [ls]", "line 1: a: has the tag !!python/object/apply:os.system, and"),
        ("a: !!timestamp 2024-01-01", "line 1: a: has the tag !!timestamp, and params hold plain values alone"),
        ("a: !!int x", "line 1: a: is tagged as int, but x is none"),
        ("a: 0o99999\nb: !!bool yes", "line 2: b: is tagged as bool, but yes is none"),
        ("? [a]\n: 1", "line 1: has a key that is no text; quote it"),
        ("b: 1\na: &a [*a]", "line 2: holds itself; write the value out"),
        ("a: [*b]", "is not valid YAML, line 1, column 5: found undefined alias 'b'"),
        ("a: {<<: 1}", "line 1: a.<<: merges what is no mapping; name one with *"),
        (f"a: {'9' * 5000}", "line 1: a: is a number of 5000 characters; round it"),
        ("a: 1\nb: '\\x00\x00'", "is not valid YAML, line 2: holds the character U+0000, which is none of a text"),
        ("[" * 600, "is nested too deeply"),
        ('a: "\\UFFFFFFFF"', "is not valid YAML: "),
        ('a: "\\uD800"', "is not valid YAML: 'utf-8' codec can't encode"),
        ("a: 1\n---\nb: 1", "is not valid YAML, line 2, column 1: expected a single document in the stream, but found"),
        (
            "a: 'b",
            "is not valid YAML, line 1, column 6: while scanning a quoted scalar, found unexpected end of stream",
        ),
        (bomb(20), f"characters, expected at most {LARGEST:,}; write values out, or use fewer aliases"),
    ],
    ids=lambda text: repr(text[:20]),
)
def test_what_cannot_be_read_is_one_line_that_names_the_place(text, message):
    with pytest.raises(ParamsError) as error:
        read_yaml(text, "here.yaml")
    said = str(error.value)
    assert said.startswith("here.yaml") and message in said and "\n" not in said


def test_a_key_that_is_given_twice_is_refused_in_json_too():
    with pytest.raises(ParamsError, match="here: the key 'b' is given twice"):
        read_json('{"a": {"b": 1, "b": 2}}', "here")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{" * 100_000, "9" * 5000, '{"a": 1'], ids=["lists", "maps", "9", "cut"]
)
def test_json_that_cannot_be_read_is_one_line(text):
    with pytest.raises(ParamsError, match=r"^here is n[^\n]*$"):
        read_json(text, "here")


def test_what_the_shipped_sets_say_is_what_every_reader_of_yaml_finds_in_them():
    for path in [ROOT / "params.yaml", *(ROOT / "studies").glob("*.yaml"), *(ROOT / "configs").glob("*.yaml")]:
        assert read_document(path) == yaml.safe_load(path.read_text(encoding="utf-8"))


# --- files laid over each other, and what stands on Snakemake's command line -----------------------------------------


def test_documents_are_laid_over_each_other_key_by_key():
    below, above = {"a": {"b": 1, "c": [1, 2]}, "d": {"e": 1}}, {"a": {"c": [3]}, "d": 4}
    assert merged(below, above) == {"a": {"b": 1, "c": [3]}, "d": 4}
    assert below == {"a": {"b": 1, "c": [1, 2]}, "d": {"e": 1}}


def test_nested_values_of_config_are_numbers(monkeypatch):
    monkeypatch.chdir(ROOT)
    entries = ["heads={gasm_cast: {lr: 1e-3, model: {width: 64}}}", "compute={threads: 2}"]
    params = parse_written(read_laid(["params.yaml"], entries))
    head = params.head("gasm_cast")
    assert (head.lr, head.model.width, head.model.bottleneck, params.compute.threads) == (0.001, 64, 64, 2)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ({}, r"kind is missing: say which head it is, kind: clip_align, kind: fact, "),
        ({"kind": 3}, r"kind is 3, expected a name: kind: clip_align, "),
        (3, r"is 3, expected a section that says which head it is, kind: clip_align, "),
    ],
    ids=str,
)
def test_a_head_whose_kind_says_nothing_is_told_what_is_wrong_with_it(head, said):
    with pytest.raises(ParamsError, match=rf"heads\.nope: {said}"):
        parse_params({"heads": {"nope": head}})


def test_errors_name_the_file_that_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("heads: {nope: {}}", encoding="utf-8")
    Path("other.yaml").write_text("{}", encoding="utf-8")
    with pytest.raises(ParamsError, match=r"^mine\.yaml cannot be used:\n  heads\.nope: kind is missing"):
        load_params("mine.yaml")
    with pytest.raises(ParamsError, match=r"^other\.yaml with mine\.yaml with --config cannot be used:\n"):
        parse_written(read_laid([tmp_path / "other.yaml", tmp_path / "mine.yaml"], ["compute={threads: 1}"]))
    with pytest.raises(ParamsError, match=r"^--config heads=\{a: 1, a: 2\}, line 1: a: given in line 1 already"):
        parse_written(read_laid(["other.yaml"], ["heads={a: 1, a: 2}"]))
    with pytest.raises(ParamsError, match=r"^the params document on the command line cannot be used"):
        load_params(json.dumps({"heads": {"nope": {}}}))

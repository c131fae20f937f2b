"""Any params document is accepted and planned, or refused with the key that is wrong: never a traceback.

Documents are the shipped ones, one head at a time, with a few things changed, moved, added or taken away: most of what
people get wrong is nearly right.
"""

import copy
import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from pipeline.config import ParamsError, load_params, parse_params, read_yaml
from pipeline.plan import Plan
from pipeline.tasks import Task

ROOT = Path(__file__).parents[2]
FEW = settings(max_examples=50, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
SOME, MANY = settings(FEW, max_examples=1_000), settings(FEW, max_examples=10_000)
HEADS = ("gasm_cast", "fact", "fact_clip", "clip_align", "negalign")
NUMBERS = [0, 1, -1, 2, 5, 48, 2**31, 2**63, 2**64, 10**300, 0.5, 1.0, 1e-3, 1e308, float("inf"), float("nan")]
TEXTS = [
    "",
    "{x}",
    "{}",
    "..",
    "a\0b",
    "a\nb",
    "x" * 300,
    "[cast",
    "γ",
    "train",
    "test",
    "random",
    "1e-3",
    "\ud800",
    "=",
]
# What UTF-8 has, as the default says by a second of looking through all of Unicode.
LETTERS = st.characters(exclude_categories=["Cs"])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(LETTERS, max_size=6),
    st.sampled_from([*NUMBERS, *TEXTS]),
)
VALUES = st.one_of(
    SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(st.text(LETTERS, max_size=4), SCALARS, max_size=3)
)


@pytest.fixture(scope="module", autouse=True)
def project():
    """In the project, whose weights and vocabularies are there; what no document changes is worked out once."""
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(ROOT)
        patched.setattr(Task, "run_code", functools.cache(Task.run_code))
        yield


@functools.cache
def shipped(head: str) -> dict[str, Any]:
    """What one head of params.yaml needs, with an ablation of it."""
    document = json.loads(Plan(load_params(ROOT / "params.yaml")).part(head=head))
    document["fused"] = []
    grid = {"score.scale": [50.0]} if head == "negalign" else {"lr": [2e-3, 3e-3]}
    document["ablations"] = {"a": {"head": head, "seeds": [0, 1], "variants": {"v": {}}, "grid": grid}}
    document["claims"] = {"c": {"says": "so", "of": {"ablation": "a", "variant": "v", "figure": "f"}, "over": 1.0}}
    return document


def places(node: Any) -> list[tuple[Any, Any]]:
    """Every (mapping or list, key) of a document."""
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    return [place for key in keys for place in ((node, key), *places(node[key]))]


@st.composite
def documents(draw) -> dict[str, Any]:
    document = copy.deepcopy(shipped(draw(st.sampled_from(HEADS))))
    for _ in range(draw(st.integers(1, 3))):
        found = places(document)
        node, key = found[draw(st.integers(0, len(found) - 1))]
        other, there = found[draw(st.integers(0, len(found) - 1))]
        do = draw(st.sampled_from(["value", "value", "value", "copy", "remove", "add", "rename"]))
        if do == "value":
            node[key] = draw(VALUES)
        elif do == "copy":
            node[key] = copy.deepcopy(other[there])
        elif do == "remove":
            del node[key]
        elif isinstance(node, list):
            node.append(draw(VALUES))
        elif do == "add":
            node[draw(st.text(LETTERS, max_size=4))] = draw(VALUES)
        else:
            node[draw(st.sampled_from([*TEXTS, "lr", "root", "features"]))] = node.pop(key)
    return document


@functools.cache
def written(head: str) -> str:
    """What one head needs as a person writes it, an anchor among it."""
    parts = {name: part for name, part in shipped(head).items() if name not in ("compute", "ablations", "claims")}
    return "compute: {threads: 010, cache_memory_gb: 1e0, devices: &one 1, nodes: *one}\n" + yaml.safe_dump(parts)


@st.composite
def texts(draw) -> str:
    """YAML with a piece of it replaced."""
    text = written(draw(st.sampled_from(HEADS)))
    start = draw(st.integers(0, len(text)))
    piece = draw(
        st.one_of(
            st.text(LETTERS, max_size=5), st.sampled_from(["\t", "<<: ", "*a", "&a ", "!x ", "- ", "? ", "{", "0x"])
        )
    )
    return text[:start] + piece + text[start + draw(st.integers(0, 30)) :]


def is_accepted_or_refused_by_its_key(document: Any) -> bool:
    """Whether it was accepted; then it is planned, too, and what each job sees of it is params as well."""
    try:
        params = parse_params(document, "here.yaml")
    except ParamsError as error:
        first, *mistakes = str(error).split("\n")
        assert first == "here.yaml cannot be used:" and mistakes
        assert all(re.fullmatch(r"  .+: .+", mistake) for mistake in mistakes), error
        return False
    try:
        made = Plan(params)
        runs = list(made.runs.values())
    except ParamsError as error:
        assert re.fullmatch(r"(features|datasets|ablations)\.[^\n]+", str(error)), error
        return False
    assert parse_params(json.loads(made.document)) == params
    for run in runs:
        assert load_params(made.part(head=run.head, key=run.key)).head(run.head) == run.config
    return True


def check_document(document: dict[str, Any]) -> None:
    is_accepted_or_refused_by_its_key(document)


def check_text(text: str) -> None:
    try:
        document = read_yaml(text, "here.yaml")
    except ParamsError as error:
        assert re.fullmatch(r"here\.yaml[^\n]+", str(error)), error
        return
    if isinstance(document, dict):
        is_accepted_or_refused_by_its_key(document)


test_any_document_is_planned_or_refused_by_its_key = FEW(given(documents())(check_document))
test_any_text_is_planned_or_refused_by_its_line_or_key = FEW(given(texts())(check_text))


# Other ones with every edit of the code that reads them; of one code always the same.
READER = b"".join(path.read_bytes() for path in sorted((ROOT / "pipeline/config").glob("*.py")))
edited = seed(hashlib.sha256(READER).hexdigest())


@pytest.mark.slow
@edited
@SOME
@given(documents())
def test_a_thousand_documents_are_planned_or_refused_by_their_keys(document):
    check_document(document)


@pytest.mark.slow
@edited
@SOME
@given(texts())
def test_a_thousand_texts_are_planned_or_refused_by_their_lines_or_keys(text):
    check_text(text)


@pytest.mark.proof
@MANY
@given(documents())
def test_ten_thousand_documents_are_planned_or_refused_by_their_keys(document):
    check_document(document)


@pytest.mark.proof
@MANY
@given(texts())
def test_ten_thousand_texts_are_planned_or_refused_by_their_lines_or_keys(text):
    check_text(text)


@pytest.mark.parametrize("head", HEADS)
def test_what_documents_and_texts_are_made_of_is_accepted(head):
    assert is_accepted_or_refused_by_its_key(shipped(head))
    assert is_accepted_or_refused_by_its_key(read_yaml(written(head), "here.yaml"))

"""Names that could be taken for each other are refused when params are read, with both keys and the remedy."""

from pathlib import Path

import pytest

from pipeline.config import ParamsError, load_params, parse_params

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.fixture(scope="module")
def params():
    return load_params(ROOT / "params.yaml")


@pytest.fixture
def document(params):
    """What `params.yaml` holds, without its ablations and claims."""
    return params.model_dump(mode="json") | {"ablations": {}, "claims": {}}


def table(head: str, **fields) -> dict:
    return {"head": head, "seeds": [0], "variants": {"reference": {}}, **fields}


def refused(document: dict) -> str:
    with pytest.raises(ParamsError) as caught:
        parse_params(document)
    return str(caught.value)


@pytest.mark.parametrize("name", ["assembly_segmentation", "Assembly_Segmentation"])
def test_two_heads_whose_results_would_be_one_file_are_refused(document, name):
    document["heads"]["fact_clip"]["result"] = name
    said = refused(document)
    assert f"is {name!r}" in said and "both would write results/" in said and "give one another name" in said


def test_a_name_that_begins_like_another_is_its_own(document):
    document["heads"]["fact_clip"]["result"] = "assembly_segmentation_features"
    parse_params(document)


@pytest.mark.parametrize("name", ["ablations", "claims", "report", "Report"])
def test_the_names_of_what_is_there_anyway_are_refused(document, name):
    document["heads"]["fact"]["result"] = name
    assert f"heads.fact.result is {name!r}, which in results/ is" in refused(document)


def test_a_table_that_lies_beside_the_results_shares_their_names(document):
    document["ablations"] = {"ssv2_top1": table("clip_align")}
    assert "ablations.ssv2_top1 is 'ssv2_top1' and heads.gasm_cast.result is 'ssv2_top1'" in refused(document)
    document["ablations"] = {"claims": table("clip_align")}
    assert "ablations.claims is 'claims', which in results/ is" in refused(document)
    # In results/ablations there is neither.
    document["ablations"] = {"ssv2_top1": table("gasm_cast"), "claims": table("fact")}
    parse_params(document)


@pytest.mark.parametrize(("one", "other"), [("a", "A")])
def test_two_tables_that_would_be_one_file_are_refused(document, one, other):
    document["ablations"] = {one: table("fact"), other: table("fact_clip")}
    assert "both would write results/ablations/" in refused(document)


def test_folders_that_differ_in_capitals_alone_are_refused(document):
    document["datasets"]["Toy-SSv2"] = document["datasets"]["toy-ssv2"] | {"made_by": None}
    assert "datasets.Toy-SSv2 and datasets.toy-ssv2 differ in capitals alone" in refused(document)
    del document["datasets"]["Toy-SSv2"]
    document["features"]["I3D_flow"] = document["features"]["i3d_flow"]
    assert "features.I3D_flow and features.i3d_flow differ in capitals alone" in refused(document)


def test_a_hyphen_in_a_features_name_is_refused_since_no_rule_would_find_its_folder(document):
    document["features"]["i3d-flow"] = document["features"]["i3d_flow"]
    assert "features.i3d-flow: in a folder's name a hyphen stands before the key; call it i3d_flow" in refused(document)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"seeds": [0, 1, 0]}, "seeds has 0 twice"),
        ({"grid": {"model.tokens": [8, 8]}}, "two points of the grid have one name"),
        ({"grid": {"lr": [0.1, "0.1"]}}, "two points of the grid have one name"),
    ],
)
def test_rows_of_a_table_that_would_be_one_are_refused(document, fields, said):
    document["ablations"] = {"it": table("fact", **fields)}
    assert said in refused(document)


@pytest.mark.parametrize(("name", "said"), [("id", "the pictures in distribution"), ("mean", "the mean over sets")])
def test_a_set_called_as_what_stands_beside_it_is_refused(document, name, said):
    sets = document["heads"]["negalign"]["ood"]
    sets[name] = sets.pop("backgrounds")
    assert f"ood.{name} is what {said}" in refused(document)


def test_two_lambdas_that_are_written_alike_are_refused(document):
    document["heads"]["negalign"]["lam"]["values"] = [0.0, 0.1, 0.1000001]
    assert "values has 0.1 twice, to six digits" in refused(document)


@pytest.mark.parametrize(
    "path", ["params.yaml", *sorted(f"configs/{of.name}" for of in (ROOT / "configs").glob("*.yaml"))]
)
def test_every_shipped_document_is_accepted(path):
    load_params(ROOT / path)

"""Claims about params.yaml's models and the content keys."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from pipeline import config
from pipeline.config import ParamsError, load_params, override, parse_params

ROOT = Path(__file__).parents[1]


@pytest.fixture
def document() -> dict:
    return yaml.safe_load((ROOT / "params.yaml").read_text())


@pytest.mark.parametrize(
    "path", [ROOT / "params.yaml", *sorted((ROOT / "configs").glob("*.yaml"))], ids=lambda p: p.name
)
def test_every_shipped_parameter_set_is_valid(path):
    assert load_params(path).heads.items()


def test_an_unknown_key_is_refused_by_its_dotted_name(document):
    document["heads"]["gasm_cast"]["learning_rate"] = 1
    with pytest.raises(ParamsError, match=r"heads\.gasm_cast\.learning_rate: unknown key"):
        parse_params(document)


def test_a_wrong_type_is_refused_by_its_dotted_name_and_value(document):
    document["heads"]["gasm_cast"]["lr"] = "fast"
    with pytest.raises(ParamsError, match=r"heads\.gasm_cast\.lr: .*number.*'fast'"):
        parse_params(document)


def test_a_number_in_quotes_is_not_a_number(document):
    document["datasets"]["toy-ssv2"]["shard_size"] = "256"
    with pytest.raises(ParamsError, match=r"datasets\.toy-ssv2\.shard_size"):
        parse_params(document)


def test_a_dangling_feature_name_is_refused_with_the_known_ones(document):
    document["heads"]["gasm_cast"]["features"]["motion"] = "r3d_clips"
    with pytest.raises(ParamsError, match=r"heads\.gasm_cast\.features\.motion names 'r3d_clips'.*r3d18_clips"):
        parse_params(document)


def test_an_ablation_that_overrides_nothing_that_exists_is_refused(document):
    document["ablations"]["gasm_cast_streams"]["variants"]["typo"] = {"model.fusoin": "concat"}
    with pytest.raises(ParamsError, match=r"variants\.typo: model\.fusoin: unknown key"):
        parse_params(document)


@pytest.mark.parametrize("weights", [{}, {"path": "a", "random": 0}, {"hub": "a/b"}])
def test_weights_come_from_exactly_one_place(document, weights):
    document["features"]["dinov3_patches"]["weights"] = weights
    with pytest.raises(ParamsError, match="weights"):
        parse_params(document)


def test_an_override_checks_the_type():
    head = load_params(ROOT / "params.yaml").head("gasm_cast")
    assert override(head, {"model.fusion": "concat", "seed": 3}).model.fusion == "concat"
    with pytest.raises(ParamsError, match=r"model\.layers"):
        override(head, {"model.layers": "many"})


def test_a_part_of_params_is_a_params_document(document):
    params = parse_params(document)
    part = json.loads(params.part(head="gasm_cast"))
    assert set(part) == {"compute", "toyworld", "datasets", "features", "heads"}
    assert load_params(params.part(head="gasm_cast")).head("gasm_cast") == params.head("gasm_cast")


def test_the_order_of_keys_in_the_yaml_changes_no_part(document):
    backwards = {name: document[name] for name in reversed(document)}
    backwards["heads"]["gasm_cast"] = dict(reversed(document["heads"]["gasm_cast"].items()))
    assert parse_params(backwards).part(head="gasm_cast") == parse_params(document).part(head="gasm_cast")


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def feature(tmp_path, document):
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"weights")
    document["features"]["dinov3_patches"]["weights"] = {"path": str(weights)}
    return document["features"]["dinov3_patches"]


def key_of(feature: dict) -> str:
    return config.feature_key(parse_params({"features": {"f": feature}}).features["f"])


@pytest.mark.parametrize(
    "change",
    [{"sampling": {"frames": 4}}, {"preprocess": {"resize": [96, 96]}}, {"pool": 1}, {"decoder": "pyav"}, {"batch": 4}],
    ids=str,
)
def test_whatever_determines_the_bytes_is_in_the_key(feature, change):
    assert key_of(feature | change) != key_of(feature)


def test_tolerance_for_failures_and_the_weights_place_are_not_in_the_key(feature, tmp_path):
    key = key_of(feature)
    moved = shutil.copytree(tmp_path / "weights", tmp_path / "elsewhere")
    (moved / "README.md").write_text("a model card changes nothing")
    assert key_of(feature | {"max_failed": 0.5, "weights": {"path": str(moved)}}) == key


def test_other_weights_have_another_key(feature, tmp_path):
    key = key_of(feature)
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"WEIGHTS")
    assert key_of(feature) != key


def test_absent_weights_are_an_error_that_names_them(feature):
    with pytest.raises(ParamsError, match="nowhere do not exist"):
        key_of(feature | {"weights": {"path": "nowhere"}})


def test_the_extractor_version_is_bumped_when_the_extraction_code_changes():
    """A change that leaves every stored byte as it was may keep the version: then only the digest below moves."""
    sources = config.code_digest("backbones", "extraction", "video", "store/writer", "store/sharding")
    assert (config.EXTRACTOR_VERSION, sources[:16]) == (1, "c8f37c4e8e9e3763"), (
        "extraction code changed: if stored bytes can differ, raise EXTRACTOR_VERSION in pipeline/config.py; "
        f"then pin {sources[:16]} here"
    )


@pytest.mark.parametrize(
    "resize, crop, box",
    [([128, 171], [112, 112], (8 / 128, 30 / 171, 120 / 128, 142 / 171)), ([64, 64], None, (0, 0, 1, 1))],
)
def test_the_box_is_the_seen_part_of_the_frame(resize, crop, box):
    assert config.Preprocess(resize=tuple(resize), crop=tuple(crop) if crop else None).box == pytest.approx(box)

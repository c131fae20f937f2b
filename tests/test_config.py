"""Claims about params.yaml's models and the content keys."""

import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from pipeline import config
from pipeline.config import Ablation, ParamsError, Weights, keys, load_params, override, parse_params, read_documents

ROOT = Path(__file__).parents[1]


@pytest.fixture
def document() -> dict:
    return read_documents([ROOT / "params.yaml"]).document


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


def test_the_rendering_of_one_data_set_is_no_other_s_business(document):
    before = parse_params(document)
    assert set(json.loads(before.part(dataset="toy-ssv2"))["toyworld"]) == {"seed", "ssv2"}
    assert "toyworld" not in json.loads(before.part(dataset="toy-assembly-texts"))
    document["toyworld"]["clinic"]["fps"] += 1
    after = parse_params(document)
    changed = [name for name in before.datasets if before.part(dataset=name) != after.part(dataset=name)]
    assert changed == ["toy-clinic"]
    document["toyworld"]["seed"] += 1
    reseeded = parse_params(document)
    rendered = [name for name, of in before.datasets.items() if of.made_by]
    assert [name for name in before.datasets if reseeded.part(dataset=name) != after.part(dataset=name)] == rendered


def test_a_data_set_is_rendered_only_from_a_section_that_is_there(document):
    document["toyworld"].pop("clinic")
    with pytest.raises(ParamsError, match=r"datasets\.toy-clinic\.made_by .* section toyworld\.clinic is missing"):
        parse_params(document)
    document["datasets"] |= {"pets": {"layout": "images", "root": "data/pets", "made_by": "toyworld"}}
    with pytest.raises(ParamsError, match=r"toyworld renders ssv2, mstcn, waterbirds, clinic, got images|is missing"):
        parse_params(document)


def test_what_is_rendered_follows_from_the_layout_unless_it_is_said(document):
    datasets = parse_params(document).datasets
    assert {name: of.rendering for name, of in datasets.items() if of.rendering} == {
        "toy-ssv2": "ssv2",
        "toy-ssv2-reversed": "ssv2_reversed",
        "toy-relations": "relations",
        "toy-assembly": "assembly",
        "toy-waterbirds": "waterbirds",
        "toy-clinic": "clinic",
    }
    assert "renders" not in datasets["toy-ssv2"].model_dump(mode="json"), "a manifest of before it was a field stands"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"renders": "clinic"},
            r"renders is 'clinic', expected one of those of layout ssv2: ssv2, ssv2_reversed, ",
        ),
        ({"made_by": None}, r"renders is 'ssv2_reversed', but nothing is made; set made_by: toyworld|is rendered"),
    ],
)
def test_a_rendering_that_cannot_be_is_refused(document, changes, told):
    document["datasets"]["toy-ssv2-reversed"] |= changes
    with pytest.raises(ParamsError, match=told):
        parse_params(document)


@pytest.mark.parametrize(
    ("elsewhere", "told"),
    [
        ({"there": "nowhere"}, r"heads\.gasm_cast\.elsewhere\.there names 'nowhere', which is not in datasets"),
        ({"there": "toy-ssv2"}, r"gasm_cast\.elsewhere\.there names 'toy-ssv2', the data set that is learned from"),
        ({"there": "toy-assembly"}, r"elsewhere\.there names 'toy-assembly', whose layout mstcn labels frames"),
        ({"tokens_reversed": "toy-ssv2-reversed"}, r"elsewhere\.tokens_reversed is what an order of tokens is called"),
    ],
    ids=["absent", "its own", "labels of frames", "a name that is taken"],
)
def test_a_data_set_that_a_head_cannot_be_judged_by_is_refused(document, elsewhere, told):
    document["heads"]["gasm_cast"]["elsewhere"] = elsewhere
    with pytest.raises(ParamsError, match=told):
        parse_params(document)


def test_the_order_of_keys_in_the_yaml_changes_no_part(document):
    backwards = {name: document[name] for name in reversed(document)}
    backwards["heads"]["gasm_cast"] = dict(reversed(document["heads"]["gasm_cast"].items()))
    assert parse_params(backwards).part(head="gasm_cast") == parse_params(document).part(head="gasm_cast")


@pytest.mark.parametrize(
    "sampling",
    [{}, {"frames": 8, "fps": 5}, {"windows": 2}, {"frames": 8, "windows": 2}, {"fps": 5, "windows": 2}],
    ids=str,
)
def test_a_sampling_that_is_none_of_the_three_is_refused(document, sampling):
    document["features"]["r3d18_clips"]["sampling"] = sampling
    with pytest.raises(ParamsError, match=r"sampling: sampling takes frames, or fps, or frames with fps and windows"):
        parse_params(document)


def test_windows_multiply_the_frames():
    assert config.Sampling(frames=16, fps=15.0, windows=8).count == 128
    assert config.Sampling(fps=15.0).ragged and config.Sampling(fps=15.0).count is None


def test_a_feature_of_one_shape_cannot_sample_by_rate_nor_a_row_a_frame_by_number(document):
    document["features"]["r3d18_clips"]["sampling"] = {"fps": 5}
    document["features"]["i3d_flow"]["sampling"] = {"frames": 5}
    with pytest.raises(ParamsError) as error:
        parse_params(document)
    assert "features.r3d18_clips" in str(error.value) and "features.i3d_flow" in str(error.value)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"i3d_frames": {"sampling": {"fps": 25}}}, "their rows must be of the same frames"),
        ({"i3d_frames": {"flow": {"feature": "r3d18_clips", "weights": {"random": 0}}}}, "which is no flow"),
        (
            {"i3d_frames": {"flow": {"feature": "nowhere", "weights": {"random": 0}}}},
            "'nowhere', which is not in features",
        ),
        ({"dinov3_int8": {"source": "i3d_frames"}}, "which has no token grid"),
        ({"i3d_flow": {"method": "raft"}}, "method raft needs weights"),
        ({"i3d_flow": {"preprocess": {"resize": 64}}}, "add a crop"),
        ({"r3d18_clips": {"pooled": True}}, "atrous is for the token grid"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_features_that_do_not_fit_each_other_are_refused(document, changes, message):
    for name, fields in changes.items():
        document["features"][name] |= fields
    with pytest.raises(ParamsError, match=message):
        parse_params(document)


@pytest.mark.parametrize(
    "fused, message",
    [
        ([["dinov3_patches"]], "at least two"),
        ([["dinov3_patches", "dinov3_int8"]], "dinov3_int8 does not begin with a decode"),
        ([["dinov3_patches", "i3d_flow"]], "differ in their decoder or in having a row a frame"),
        ([["dinov3_patches", "r3d18_clips"], ["dinov3_full", "r3d18_clips"]], "r3d18_clips is in two groups"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_features_that_cannot_share_a_decode_are_not_fused(document, fused, message):
    with pytest.raises(ParamsError, match=message):
        parse_params(document | {"fused": fused})


def test_a_part_with_a_feature_holds_what_the_feature_is_made_from(document):
    part = json.loads(parse_params(document).part(features=("dinov3_pool_int8",)))
    assert list(part["features"]) == ["dinov3_full", "dinov3_pool_int8"]


def test_what_else_somebody_wants_of_a_data_set_triggers_nothing(document):
    before = parse_params(document).part(dataset="toy-ssv2", features=("r3d18_clips",))
    document["datasets"]["toy-ssv2"]["features"] = []
    assert parse_params(document).part(dataset="toy-ssv2", features=("r3d18_clips",)) == before


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def feature(tmp_path, document):
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"weights")
    document["features"]["dinov3_patches"]["weights"] = {"path": str(weights)}
    return document["features"]["dinov3_patches"]


def key_of(feature: dict) -> str:
    return config.feature_key(parse_params({"features": {"f": feature}}), "f")


@pytest.mark.parametrize(
    "change",
    [{"sampling": {"frames": 4}}, {"preprocess": {"resize": [96, 96]}}, {"pool": 1}, {"batch": 4}],
    ids=str,
)
def test_whatever_determines_the_bytes_is_in_the_key(feature, change):
    assert key_of(feature | change) != key_of(feature)


@pytest.mark.parametrize("decoder", ["auto", "pyav", "decord"])
def test_the_decoder_is_not_in_the_key_since_all_give_the_same_frames(feature, decoder):
    assert key_of(feature | {"decoder": decoder}) == key_of(feature)


def test_a_decoder_that_is_the_machines_own_is_in_the_key(feature):
    keys = [key_of(feature | {"decoder": decoder}) for decoder in ("auto", "torchcodec")]
    document = {"features": {"f": feature | {"decoder": "torchcodec_cuda"}}, "compute": {"decode_workers": 0}}
    keys.append(config.feature_key(parse_params(document), "f"))
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    ("compute", "says"),
    [({"decode_workers": 2}, "decode_workers: 0 .it is 2."), ({"decode_workers": 0, "device": "cpu"}, "device: cuda")],
)
def test_a_gpu_decodes_in_the_process_that_computes_on_it(feature, compute, says):
    document = {"features": {"f": feature | {"decoder": "torchcodec_cuda"}}, "compute": compute}
    with pytest.raises(ParamsError, match=f"features.f.decoder is torchcodec_cuda.*{says}, or decoder: torchcodec"):
        parse_params(document)


def test_tolerance_for_failures_and_the_weights_place_are_not_in_the_key(feature, tmp_path):
    key = key_of(feature)
    moved = shutil.copytree(tmp_path / "weights", tmp_path / "elsewhere")
    (moved / "README.md").write_text("a model card changes nothing")
    assert key_of(feature | {"max_failed": 0.5, "weights": {"path": str(moved)}}) == key


def test_other_weights_have_another_key(feature, tmp_path):
    key = key_of(feature)
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"WEIGHTS")
    assert key_of(feature) != key


@pytest.fixture
def large(tmp_path, monkeypatch) -> Path:
    """A file that is worth remembering and has not changed for a while; the user's cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(keys, "SETTLED_NS", 0)
    keys._digest.cache_clear()
    path = tmp_path / "large.safetensors"
    path.write_bytes(bytes(range(256)) * 8192)
    return path


def hashed_again(path: Path, monkeypatch) -> bool:
    """Whether another process would read all of the file; its answer is right in any case."""
    hashed = []
    whole = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *file: hashed.append(file) or whole(*file))
    keys._digest.cache_clear()
    assert keys.remembered_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    return bool(hashed)


def test_a_large_file_is_hashed_once(large, monkeypatch):
    assert hashed_again(large, monkeypatch)
    assert not hashed_again(large, monkeypatch)


def test_no_home_is_made_to_remember_in(large, monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    assert hashed_again(large, monkeypatch) and hashed_again(large, monkeypatch)
    assert not (tmp_path / "nobody").exists()


def test_weights_that_cannot_be_read_are_refused_by_name(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ParamsError, match=r"config\.json cannot be read \(Is a directory\); download or save it again"):
        keys.weights_digest(Weights(path=str(tmp_path)))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"0" * 64, b"0" * 64 + b" " + b"0" * 16])
def test_a_memory_that_is_damaged_is_none_and_is_mended(large, monkeypatch, content, tmp_path):
    keys.remembered_digest(large)
    next((tmp_path / "cache").rglob("digests/*")).write_bytes(content)
    assert hashed_again(large, monkeypatch)
    assert not hashed_again(large, monkeypatch)


@pytest.mark.parametrize("at", [0, 1 << 20, -1])
def test_weights_replaced_by_others_of_equal_size_and_time_are_other_weights(large, monkeypatch, at):
    keys.remembered_digest(large)
    before = large.stat()
    content = bytearray(large.read_bytes())
    content[at] ^= 1
    time.sleep(0.02)  # longer than a tick of the clock of files
    large.write_bytes(content)
    os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert hashed_again(large, monkeypatch)


@pytest.mark.parametrize("at", [0, -1])
def test_where_a_file_system_keeps_no_time_of_change_other_ends_are_seen(large, monkeypatch, at):
    monkeypatch.setattr(keys, "_identity", lambda status: (status.st_size,))
    keys.remembered_digest(large)
    content = bytearray(large.read_bytes())
    content[at] ^= 1
    large.write_bytes(content)
    assert hashed_again(large, monkeypatch)


def test_a_file_that_has_just_changed_is_not_remembered(large, monkeypatch):
    monkeypatch.setattr(keys, "SETTLED_NS", 10**12)
    assert hashed_again(large, monkeypatch) and hashed_again(large, monkeypatch)


@pytest.mark.parametrize("cache", ["", "relative", "/proc/nowhere"])
def test_a_memory_that_cannot_be_kept_fails_nothing(large, monkeypatch, tmp_path, cache):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    monkeypatch.setenv("HOME", "/proc/nowhere")
    assert hashed_again(large, monkeypatch) and hashed_again(large, monkeypatch)
    assert [path.name for path in tmp_path.iterdir()] == ["large.safetensors"]


def test_a_user_without_a_home_remembers_nothing(large, monkeypatch):
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", nobody)
    assert hashed_again(large, monkeypatch)


def test_weights_of_an_older_format_are_in_the_key_where_they_are_what_is_read(feature, tmp_path):
    weights = tmp_path / "weights"
    (weights / "pytorch_model.bin").write_bytes(b"old")
    both = key_of(feature)
    (weights / "pytorch_model.bin").write_bytes(b"OLD")
    assert key_of(feature) == both
    (weights / "model.safetensors").unlink()
    alone = key_of(feature)
    (weights / "pytorch_model.bin").write_bytes(b"old")
    assert key_of(feature) != alone


def test_absent_weights_are_an_error_that_names_them(feature):
    with pytest.raises(ParamsError, match="nowhere do not exist"):
        key_of(feature | {"weights": {"path": "nowhere"}})


def test_the_key_of_a_derived_feature_follows_its_source_but_not_the_source_s_name(feature):
    def key(document: dict, source: str = "full") -> str:
        params = {"features": {source: document, "small": {"backbone": "derived", "source": source, "pool": 2}}}
        return config.feature_key(parse_params(params), "small")

    assert key(feature | {"batch": 4}) != key(feature)
    assert key(feature, source="all_of_it") == key(feature)


def test_where_published_features_lie_is_not_in_their_key():
    def key(**fields) -> str:
        npy = {"backbone": "npy", "root": "a", "orientation": "DT", "width": 2048, "fps": 15} | fields
        return config.feature_key(parse_params({"features": {"f": npy}}), "f")

    assert key(root="elsewhere") == key()
    assert key(orientation="TD") != key()


def test_a_grid_is_every_combination_of_its_values_under_names_that_tell_them_apart():
    grid = {"background.percentile": [70, 80], "lam.fixed": [0.5], "score.fixed": [1, 2]}
    ablation = Ablation(head="negalign", seeds=[0], variants={"plain": {}}, grid=grid)
    assert list(ablation.rows) == ["plain"] + [
        f"background.percentile={p} lam.fixed=0.5 score.fixed={s}" for p in (70, 80) for s in (1, 2)
    ]
    assert ablation.rows["background.percentile=80 lam.fixed=0.5 score.fixed=1"] == {
        "background.percentile": 80, "lam.fixed": 0.5, "score.fixed": 1
    }  # fmt: skip
    with pytest.raises(ValueError, match="an ablation needs variants, a grid or both"):
        Ablation(head="negalign", seeds=[0])


def test_the_extractor_version_is_bumped_when_the_extraction_code_changes():
    """A change that leaves every stored byte as it was may keep the version: then only the digest below moves."""
    writing = ("writer", "fields", "quantise", "layout", "chunks", "sharding", "hdf5")
    files = ("datasets/map_content", "datasets/imported")
    sources = config.code_digest(
        "backbones", "extraction", "video", "limits", *files, *(f"store/{name}" for name in writing)
    )
    assert (config.EXTRACTOR_VERSION, sources[:16]) == (3, "9dbb96a925cfc764"), (
        "extraction code changed: if stored bytes can differ, raise EXTRACTOR_VERSION in pipeline/config/keys.py; "
        f"then pin {sources[:16]} here"
    )


@pytest.mark.parametrize(
    "resize, crop, box",
    [([128, 171], [112, 112], (8 / 128, 29 / 171, 120 / 128, 141 / 171)), ([64, 64], None, (0, 0, 1, 1))],
)
def test_the_box_is_the_seen_part_of_the_frame(resize, crop, box):
    assert config.Preprocess(resize=tuple(resize), crop=tuple(crop) if crop else None).box == pytest.approx(box)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"of": {"ablation": "nope", "variant": "gasm_cast", "figure": "top1"}}, "names 'nope', which is not in abl"),
        ({"of": {"ablation": "gasm_cast_streams", "variant": "x", "figure": "top1"}}, "names 'x', which is not in"),
        ({"times": 0.0}, "greater than 0"),
    ],
)
def test_a_claim_of_something_that_is_not_there_is_refused(document, change, says):
    document["claims"]["gasm_cast_level"] |= change
    with pytest.raises(ParamsError, match=says):
        parse_params(document)


def test_ablations_that_a_claim_compares_have_the_same_seeds(document):
    document["ablations"]["gasm_cast_streams"]["seeds"] = [0, 1]
    document["claims"]["gasm_cast_level"]["over"] = {
        "ablation": "gasm_cast_storage",
        "variant": "fp16",
        "figure": "top1",
    }
    with pytest.raises(ParamsError, match="different seeds"):
        parse_params(document)


# --- negalign ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"source": "clip_image"}, "which is not clip's cam_tokens of one frame"),
        ({"source": "dinov3_full"}, "which is not clip's cam_tokens of one frame"),
        ({"source": "nowhere"}, "'nowhere', which is not in features"),
        ({"texts": {"dataset": "toy-waterbirds", "feature": "clip_text"}}, "texts.dataset names .* holds no texts"),
        ({"texts": {"dataset": "nowhere", "feature": "clip_text"}}, "'nowhere', which is not in datasets"),
        (
            {"texts": {"dataset": "toy-waterbirds-classes", "feature": "clip_image"}},
            "texts.feature names .* embeds no texts",
        ),
        ({"site": "layer_norm2"}, r"features\.clip_cam\.clip_cam\.site"),
    ],
    ids=str,
)
def test_maps_need_the_tokens_of_clips_last_block_and_embedded_texts(document, changes, message):
    document["features"]["clip_cam"] |= changes
    with pytest.raises(ParamsError, match=message):
        parse_params(document)


def test_maps_of_more_than_one_frame_are_refused(document):
    document["features"]["clip_cam_tokens"]["sampling"] = {"frames": 2}
    with pytest.raises(ParamsError, match=r"features\.clip_cam\.source names .* of one frame"):
        parse_params(document)


@pytest.mark.parametrize(
    "lam, message",
    [
        ({"fixed": 0.5}, "choose validation takes no fixed"),
        ({"guard": -1.0}, r"lam\.guard"),
        ({"choose": "adaptive", "fixed": 0.5}, "choose adaptive takes no fixed"),
        ({"values": []}, r"lam\.values"),
        ({"validation": 1.0}, r"lam\.validation"),
    ],
    ids=str,
)
def test_lambda_is_fixed_where_it_says_so_and_only_there(document, lam, message):
    document["heads"]["negalign"]["lam"] |= lam
    with pytest.raises(ParamsError, match=message):
        parse_params(document)


def test_a_fixed_lambda_may_be_left_out_where_the_local_score_has_one_of_its_own(document):
    head = document["heads"]["negalign"]
    document["ablations"] = document["claims"] = {}
    head["lam"] |= {"choose": "fixed"}
    assert parse_params(document).head("negalign").fixed_lambda == 0.3
    head["score"]["local"] = "p_align"
    with pytest.raises(ParamsError, match=r"lam: choose fixed needs fixed where score\.local is p_align"):
        parse_params(document)
    head["score"]["local"] = "none"
    assert parse_params(document).head("negalign").fixed_lambda == 0


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"reference_split": "test"}, "reference_split and eval_split are both 'test'; set reference_split: null"),
        ({"ood": {"id": "toy-waterbirds-backgrounds"}}, "ood.id is what the pictures in distribution are called"),
        ({"ood": {}}, r"heads\.negalign\.ood"),
        ({"ood": {"far": "nowhere"}}, r"dataset of ood\.far\.image names 'nowhere'"),
        (
            {"classes": {"dataset": "toy-waterbirds-classes", "feature": "clip_txt"}},
            r"negalign\.classes\.feature names 'clip_txt'",
        ),
    ],
    ids=str,
)
def test_a_negalign_head_that_cannot_be_evaluated_is_refused(document, changes, message):
    document["heads"]["negalign"] |= changes
    with pytest.raises(ParamsError, match=message):
        parse_params(document)


def test_a_negalign_head_without_a_reference_split_is_valid(document):
    document["heads"]["negalign"]["reference_split"] = None
    assert parse_params(document).head("negalign").reference_split is None


def test_a_negalign_head_reads_pictures_in_and_out_of_distribution_classes_and_words(document):
    inputs = parse_params(document).head("negalign").inputs
    assert set(inputs) == {
        *(f"{prefix}{role}" for role in ("image", "cam") for prefix in (
            "", "ood.backgrounds.", "ood.unknown_spurious.", "ood.unknown_other."
        )),
        "masks", "classes", "words", "words.plain", "words.object", "words.background",
    }  # fmt: skip
    assert inputs["ood.unknown_other.cam"] == ("toy-waterbirds-unknown-other", "clip_cam")
    assert inputs["words.object"] == ("toy-waterbirds-words", "clip_text_object")


def test_a_data_set_lies_within_one_that_there_is_and_that_is_no_part_s_business(document):
    before = parse_params(document).part(dataset="toy-waterbirds-backgrounds")
    document["datasets"]["toy-waterbirds-backgrounds"]["within"] = None
    assert parse_params(document).part(dataset="toy-waterbirds-backgrounds") == before
    document["datasets"]["toy-waterbirds-backgrounds"]["within"] = "nowhere"
    with pytest.raises(ParamsError, match=r"datasets\.toy-waterbirds-backgrounds\.within names 'nowhere'"):
        parse_params(document)


def test_a_part_with_maps_holds_the_texts_that_they_are_compared_with(document):
    part = json.loads(parse_params(document).part(dataset="toy-waterbirds", features=("clip_cam",)))
    assert set(part["datasets"]) == {"toy-waterbirds", "toy-waterbirds-classes"}
    assert set(part["features"]) == {"clip_cam_tokens", "clip_cam", "clip_text_negatives"}


def test_classes_that_are_held_out_cannot_be_named_by_a_transcript(document):
    document["heads"]["fact_clip"]["model"] = document["heads"]["fact_clip"]["model"] | {"transcript": True}
    with pytest.raises(ParamsError, match=r"heads\.fact_clip.*a transcript names the classes"):
        parse_params(document)

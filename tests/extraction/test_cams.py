"""Claims about maps and patch embeddings derived from the tokens that enter CLIP's last block."""

import numpy as np
import pytest
import torch

from pipeline.config import ParamsError, feature_dir, feature_key, parse_params
from pipeline.datasets import DatasetError, build_manifest, write_manifest
from pipeline.extraction import ExtractionError, derive, extract
from pipeline.store import FeatureStore, ShardWriter, StoreMissing, verify
from tests.datasets.made_up import write_images, write_texts
from tests.extraction.small import ROOT, contents, dying_at_the_second_commit
from tests.later import Later

clip_cam = Later("pipeline.backbones.clip_cam")
clip_cam_blocks = Later("pipeline.backbones.clip_cam_blocks")

WEIGHTS = {"path": str(ROOT / "weights" / "mini-clip")}
NAMES = ("square", "circle", "star", "flower")
TOKENS = {
    "backbone": "clip",
    "output": "cam_tokens",
    "weights": WEIGHTS,
    "sampling": {"frames": 1},
    "preprocess": {"resize": 128, "crop": [128, 128]},
    "batch": 4,
    "max_failed": 0.2,
}
CAM = {
    "backbone": "clip_cam",
    "source": "tokens",
    "texts": {"dataset": "names", "feature": "text"},
    "batch": 4,
    "max_failed": 0.0,  # what failed in the tokens does not count a second time
}
DEEPER = TOKENS | {"block": -2}
VARIANTS = {"softmax": {"target": "softmax"}, "block_input": {"site": "block_input"}, "post_norm": {"post_norm": True}}
VARIANTS["values"] = {"patches": "value"}


def params_of(folder, **features):
    """Pictures in folder/small, names in folder/names.txt."""
    text = {"backbone": "clip_text", "weights": WEIGHTS, "prompts": ["a photo of a {}"]}
    datasets = {
        "small": {"layout": "images", "root": str(folder / "small"), "shard_size": 64},
        "names": {"layout": "texts", "root": str(folder / "names.txt"), "shard_size": 3},
    }
    cams = {name: CAM | changes for name, changes in VARIANTS.items()}
    compute = {"device": "cpu", "decode_workers": 0, "extract_threads": 1}
    chosen = {"text": text, "tokens": TOKENS, "cam": CAM, **cams, **features}
    return parse_params({"compute": compute, "datasets": datasets, "features": chosen})


def manifest(params, dataset, features):
    write_manifest(build_manifest(params.datasets[dataset])[0], features / dataset / "manifest.parquet")


def embed_texts(params, features, shards=(0, 1)):
    manifest(params, "names", features)
    for shard in shards:
        extract(params, "names", "text", shard, features, lambda line: None)


def derived(params, name, features, lines=None):
    return derive(params, "small", name, 0, features, (lines if lines is not None else []).append)


def store_of(world, name, dataset="small") -> FeatureStore:
    params, features = world
    return FeatureStore(feature_dir(params, dataset, name, features))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(params, features): 10 pictures, of which one has failed, and maps of them."""
    folder = tmp_path_factory.mktemp("cams")
    write_images(folder / "small", {"": 10}, size=(160, 128))
    write_texts(folder / "names.txt", NAMES)
    params, features = params_of(folder), folder / "features"
    manifest(params, "small", features)
    # Broken after the manifest was made: its tokens cannot be had, and the reason is the decoder's.
    broken = folder / "small" / "0003.png"
    broken.write_bytes(broken.read_bytes()[:-400])
    extract(params, "small", "tokens", 0, features, lambda line: None)
    embed_texts(params, features)
    derived(params, "cam", features)
    return params, features


@pytest.fixture(scope="module")
def last_block(world):
    return clip_cam.LastBlock(world[0].features["tokens"].weights)


@pytest.fixture(scope="module")
def given(world):
    """(ids, tokens (9, T, D), class vectors (4, E)) of the pictures that have tokens."""
    tokens, texts = store_of(world, "tokens"), store_of(world, "text", "names")
    ids = [sample for sample in tokens.samples if sample not in tokens.failed]
    (field,), (named,) = tokens.fields, texts.fields
    return ids, *(torch.from_numpy(of).float() for of in (tokens.read(ids, field), texts.read(list(NAMES), named)))


def expected(block, tokens, classes, target="logit", site="layer_norm1", post_norm=False, patches="output"):
    """map and patch_embed as LastBlock alone makes them, picture by picture."""
    maps, found = [], []
    for one in tokens:
        embed = block.embed(one[None])
        best = (embed @ classes.T).argmax(dim=1)
        goal = classes[best] if target == "logit" else block.softmax_target(embed, classes, best, 100.0)
        heat = block.cam(one[None], goal, site)[0]
        maps.append(heat / heat.abs().max())
        own = block.value_embed(one[None]) if patches == "value" else block.patch_embed(one[None], post_norm)
        found.append(own[0])
    return torch.stack(maps).numpy(), torch.stack(found).numpy()


def test_what_is_stored_is_what_the_last_block_makes_of_the_tokens(world, last_block, given):
    ids, tokens, classes = given
    store = store_of(world, "cam")
    heat, patches = expected(last_block, tokens, classes)
    np.testing.assert_allclose(store.read(ids, "map"), heat, atol=2e-3)
    np.testing.assert_allclose(store.read(ids, "patch_embed"), patches, rtol=2e-3, atol=2e-3)
    assert np.abs(store.read(ids, "map")).max(axis=1) == pytest.approx(1), "in units of its largest magnitude"
    assert store.provenance["grid"] == [1, *last_block.grid]
    assert {dtype for _, dtype in store.fields.values()} == {"float16"}


def test_maps_tell_texts_apart(given, last_block):
    _, tokens, classes = given
    one, other = (expected(last_block, tokens, classes[[i]])[0] for i in (0, 1))
    assert np.abs(one - other).max() > 0.1


@pytest.mark.parametrize("name", VARIANTS)
def test_each_option_is_that_of_the_last_block_and_changes_something(world, last_block, given, name):
    params, features = world
    derived(params, name, features)
    ids, tokens, classes = given
    heat, patches = expected(last_block, tokens, classes, **VARIANTS[name])
    store, plain = store_of(world, name), store_of(world, "cam")
    np.testing.assert_allclose(store.read(ids, "map"), heat, atol=2e-3)
    np.testing.assert_allclose(store.read(ids, "patch_embed"), patches, rtol=2e-3, atol=2e-3)
    changed = "patch_embed" if name in ("post_norm", "values") else "map"
    assert [field for field in store.fields if not np.array_equal(store.read(ids, field), plain.read(ids, field))] == [
        changed
    ]


def test_maps_of_several_blocks_come_from_the_tokens_that_enter_the_first_of_them(world):
    params = params_of(world[1].parent, deeper=DEEPER, deep=CAM | {"source": "deeper", "cam_blocks": [-2, -1]})
    extract(params, "small", "deeper", 0, world[1], lambda line: None)
    derived((params), "deep", world[1])
    deep, plain = store_of((params, world[1]), "deep"), store_of(world, "cam")
    ids = list(plain.samples)
    heat = deep.read(ids, "map")
    assert np.isfinite(heat).all() and heat.min() >= 0 and not np.allclose(heat, plain.read(ids, "map"), atol=0.05)
    np.testing.assert_allclose(deep.read(ids, "patch_embed"), plain.read(ids, "patch_embed"), rtol=0.02, atol=0.02)


def test_gradients_of_deeper_maps_are_taken_by_what_repeats_alone(world, monkeypatch):
    def asked(*given):
        raise RuntimeError(f"mode {torch.get_deterministic_debug_mode()}")

    monkeypatch.setattr(clip_cam_blocks, "autograd_cams", asked)
    params = params_of(world[1].parent, deeper=DEEPER, again=CAM | {"source": "deeper", "cam_blocks": [-2]})
    extract(params, "small", "deeper", 0, world[1], lambda line: None)
    with pytest.raises(RuntimeError, match="mode 2"):
        derived(params, "again", world[1])
    assert torch.get_deterministic_debug_mode() == 0


def test_a_block_before_the_tokens_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(ParamsError, match=r"cam_blocks has -3, but tokens holds the input of block -1; .* block: -3"):
        params_of(tmp_path, cam=CAM | {"cam_blocks": [-3]})


def test_provenance_goes_back_to_the_tokens_the_texts_and_the_weights(world):
    store = store_of(world, "cam")
    reads = store.provenance["reads"]
    assert reads["tokens"]["key"] == store_of(world, "tokens").key
    assert reads["text"]["key"] == store_of(world, "text", "names").key
    assert store.provenance["weights"] == store_of(world, "tokens").provenance["weights"]
    assert store.provenance["box"] == store_of(world, "tokens").provenance["box"]
    assert verify(store.directory) == []


def test_a_sample_that_failed_stays_failed_for_the_same_reason(world):
    assert list(store_of(world, "tokens").failed) == ["0003.png"]
    assert store_of(world, "cam").failed == store_of(world, "tokens").failed


def test_a_derivation_that_dies_resumes_at_its_last_commit_and_ends_byte_for_byte_equal(world, monkeypatch):
    params, features = world
    folder = feature_dir(params, "small", "cam", features)
    before = contents(folder)
    with dying_at_the_second_commit(folder, monkeypatch):
        derived(params, "cam", features)
    lines: list[str] = []
    derived(params, "cam", features, lines)
    assert "4 of 10 samples are there" in lines[0]
    assert contents(folder) == before


# --- keys -------------------------------------------------------------------------------------------------------------


def test_other_texts_under_the_same_name_have_another_key(tmp_path):
    write_texts(tmp_path / "names.txt", NAMES)
    params = params_of(tmp_path)
    before = {name: feature_key(params, name) for name in ("cam", "tokens", "text")}
    write_texts(tmp_path / "names.txt", [*NAMES, "ring"])
    after = {name: feature_key(params, name) for name in ("cam", "tokens", "text")}
    assert {name for name in before if before[name] != after[name]} == {"cam"}


def test_the_key_follows_the_texts_prompts_and_each_option_but_no_name(tmp_path):
    write_texts(tmp_path / "names.txt", NAMES)
    prompts = {"backbone": "clip_text", "weights": WEIGHTS, "prompts": ["a {}"]}
    params, other = params_of(tmp_path), params_of(tmp_path, text=prompts)
    named = CAM | {"texts": {"dataset": "names", "feature": "also"}}
    same = params_of(tmp_path, also=params.features["text"].model_dump(mode="json"), named=named)
    assert feature_key(other, "cam") != feature_key(params, "cam")
    assert len({feature_key(params, name) for name in ("cam", *VARIANTS)}) == 1 + len(VARIANTS)
    assert feature_key(same, "named") == feature_key(same, "cam")


def test_a_list_of_texts_that_is_not_there_is_an_error_with_the_remedy(tmp_path):
    with pytest.raises(ParamsError, match=r"datasets\.names\.root is .*names\.txt, which is no file; name one"):
        feature_key(params_of(tmp_path), "cam")


# --- what is refused --------------------------------------------------------------------------------------------------


def test_absent_tokens_and_absent_texts_are_refused_with_the_remedy(world, tmp_path):
    write_images(tmp_path / "small", {"": 1}, size=(160, 128))
    write_texts(tmp_path / "names.txt", NAMES)
    params, features = params_of(tmp_path), tmp_path / "features"
    for dataset in ("small", "names"):
        manifest(params, dataset, features)
    with pytest.raises(StoreMissing, match="run `extract`"):
        derived(params, "cam", features)
    extract(params, "small", "tokens", 0, features, lambda line: None)
    with pytest.raises(StoreMissing):
        derived(params, "cam", features)
    with pytest.raises(ExtractionError, match=r"cam is derived from tokens: run `derive small cam`"):
        extract(params, "small", "cam", 0, features, lambda line: None)


def test_a_list_that_is_embedded_in_part_is_refused_and_a_text_that_was_removed_does_not_count(world, tmp_path):
    write_images(tmp_path / "small", {"": 2}, size=(160, 128))
    write_texts(tmp_path / "names.txt", NAMES)
    params, features = params_of(tmp_path), tmp_path / "features"
    manifest(params, "small", features)
    extract(params, "small", "tokens", 0, features, lambda line: None)
    embed_texts(params, features, shards=[0])
    with pytest.raises(StoreMissing, match="holds no sample 'flower'"):
        derived(params, "cam", features)
    embed_texts(params, features)
    write_texts(tmp_path / "names.txt", NAMES[:1])
    manifest(params, "names", features)
    derived(params, "cam", features)
    store, tokens = store_of((params, features), "cam"), store_of((params, features), "tokens")
    ((field, _),) = tokens.fields.items()
    classes = torch.from_numpy(store_of((params, features), "text", "names").read(NAMES[:1], "text_embed")).float()
    given = torch.from_numpy(tokens.read(tokens.samples, field)).float()
    heat, _ = expected(clip_cam.LastBlock(params.features["tokens"].weights), given, classes)
    np.testing.assert_allclose(store.read(tokens.samples, "map"), heat, atol=2e-3)


def write_vectors(params, features, width, failed=()):
    """A store of texts in the place of clip_text's, one shard of the names."""
    base = feature_dir(params, "names", "text", features) / "shard-000"
    fields = {"text_embed": ((width,), "float32")}
    made = {"key": feature_key(params, "text"), "feature": "text"}
    with ShardWriter(base, [(name, name) for name in NAMES], fields, made) as writer:
        for name in NAMES:
            if name in failed:
                writer.fail(name, "too long")
            else:
                writer.put(name, {"text_embed": np.eye(1, width, dtype=np.float32)[0]}, {})
        writer.commit()
        writer.finish()


@pytest.mark.parametrize(
    ("width", "failed", "says"),
    [
        (7, (), r"the texts' vectors in text are 7 wide, this CLIP's embeddings \d+; embed them with the same"),
        (None, ("star",), "the text 'star' has no embedding: too long"),
        (None, (), r"names: the classes '\w+' and '\w+' have one embedding"),
    ],
    ids=["width", "failed", "equal"],
)
def test_texts_that_do_not_fit_are_refused(world, last_block, tmp_path, width, failed, says):
    params, features = world
    tokens = feature_dir(params, "small", "tokens", tmp_path)
    tokens.parent.mkdir(parents=True)
    tokens.symlink_to(feature_dir(params, "small", "tokens", features))
    (tmp_path / "small" / "manifest.parquet").symlink_to(features / "small" / "manifest.parquet")
    manifest(params, "names", tmp_path)
    write_vectors(params, tmp_path, width or last_block.embed_dim, failed)
    with pytest.raises((ExtractionError, DatasetError), match=says):
        derived(params, "cam", tmp_path)

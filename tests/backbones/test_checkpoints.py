"""Opening a checkpoint: folders and the hub, safetensors and pickles, and each way in which one can be incomplete."""

import json
import pickle
import shutil

import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.torch import load_file, save_file

from pipeline.backbones import BackboneError
from pipeline.config import Weights
from tests.backbones.small_clip import MEAN, STD, save_clip
from tests.later import Later

checkpoints = Later("pipeline.backbones.checkpoints")
transformers = Later("transformers")

HUB = Weights(hub="some/where", revision="abc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "clip")


def opened(folder):
    return checkpoints.open_checkpoint(Weights(path=str(folder)), "CLIP", {"clip": transformers.CLIPModel})


def as_pickle(folder):
    """Leaves the weights as the files of 2021 have them."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")


class Hub:
    """Stands in for snapshot_download: hands over what `folder` has of the patterns, and remembers what was asked."""

    def __init__(self, folder, cache):
        self.folder, self.cache, self.asked = folder, cache, []
        cache.mkdir()

    def __call__(self, repository, revision, allow_patterns):
        self.asked.append((repository, revision))
        for pattern in allow_patterns:
            for file in self.folder.glob(pattern):
                shutil.copy(file, self.cache)
        return str(self.cache)


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_folder_gives_its_model_in_float32_and_its_mean_and_deviation(folder):
    checkpoint = opened(folder)
    assert checkpoint.architecture is transformers.CLIPModel
    assert {weight.dtype for weight in checkpoint.model().parameters()} == {torch.float32}
    assert checkpoint.normalisation({"resample": 3}) == (MEAN, STD)


def test_weights_kept_in_half_precision_come_back_in_float32(folder, tmp_path):
    save_clip(tmp_path)
    transformers.CLIPModel.from_pretrained(folder, dtype=torch.float16).save_pretrained(tmp_path)
    model = opened(tmp_path).model()
    assert model.visual_projection.weight.dtype == torch.float32
    assert torch.equal(model.visual_projection.weight, opened(folder).model().visual_projection.weight.half().float())


def test_pytorch_model_bin_gives_the_same_weights(folder, copied):
    as_pickle(copied)
    ours, theirs = opened(copied).model().state_dict(), opened(folder).model().state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_code_in_a_pickle_is_refused_and_never_run(copied, tmp_path):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "sprung"), "w")

    (copied / "model.safetensors").unlink()
    torch.save({"logit_scale": Trap()}, copied / "pytorch_model.bin", pickle_module=pickle)
    with pytest.raises(
        BackboneError, match="clip has its weights only as a pickle with code in it, which is never run"
    ):
        opened(copied).model()
    assert not (tmp_path / "sprung").exists()


def test_the_position_ids_of_old_files_are_no_weights(copied):
    """The published CLIP files hold these constants; newer transformers computes them."""
    state = load_file(copied / "model.safetensors")
    for name, count in {"text_model": 77, "vision_model": 17}.items():
        state[f"{name}.embeddings.position_ids"] = torch.arange(count)[None]
    save_file(state, copied / "model.safetensors", metadata={"format": "pt"})
    assert opened(copied).model().text_model.embeddings.position_ids.shape == (1, 77)


def test_a_checkpoint_without_weights_is_refused(copied):
    (copied / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match=r"no readable CLIP weights .*pytorch_model.bin.*; download or save"):
        opened(copied).model()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("logit_scale"), "1 missing keys, such as logit_scale"),
        (lambda state: state.update(extra=torch.zeros(1)), "1 unexpected keys, such as extra"),
        (lambda state: state.update(logit_scale=torch.zeros(3)), "1 mismatched keys, such as .*logit_scale"),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_weights_that_do_not_fit_are_refused_by_name(copied, change, message):
    state = load_file(copied / "model.safetensors")
    change(state)
    save_file(state, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=message):
        opened(copied).model()


def test_an_absent_folder_is_refused_with_what_to_give(tmp_path):
    with pytest.raises(BackboneError, match=r"CLIP weights .*nowhere are not a folder; give the folder that holds"):
        opened(tmp_path / "nowhere")


def test_a_file_is_refused_where_a_folder_is_wanted(folder):
    with pytest.raises(BackboneError, match=r"model.safetensors are not a folder"):
        opened(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist; download"),
        (None, r"cannot be read \(Is a directory\); download"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "holds a list, expected a mapping"),
    ],
    ids=["absent", "a folder", "cut off", "nested too deep", "a list"],
)
def test_a_json_file_that_is_none_is_refused(tmp_path, content, message):
    file = tmp_path / "config.json"
    if content is not None:
        file.write_text(content)
    elif message.startswith("cannot"):
        file.mkdir()
    with pytest.raises(BackboneError, match=message):
        checkpoints.read_json(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resample": 2}, "resample 2, expected 3 as in the published"),
        ({"image_mean": None}, "image_mean None"),
        ({"image_std": [1.0]}, r"image_std \[1.0\], expected three numbers each"),
        ({"image_std": [0.2, 0, 0.2]}, r"image_std \[0.2, 0, 0.2\], .* the latter above 0; download or save"),
    ],
    ids=["resample", "mean", "deviation", "no deviation"],
)
def test_a_preprocessor_file_that_asks_for_something_else_is_refused(copied, change, message):
    file = copied / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(BackboneError, match=message):
        opened(copied).normalisation({"resample": 3})


def test_a_key_that_the_preprocessor_file_leaves_out_is_transformers_default(copied):
    """OpenAI's own files of 2021 have no rescale_factor."""
    file = copied / "preprocessor_config.json"
    file.write_text(
        json.dumps({"feature_extractor_type": "CLIPFeatureExtractor", "image_mean": MEAN, "image_std": STD})
    )
    assert opened(copied).normalisation({"resample": 3, "rescale_factor": 1 / 255}) == (MEAN, STD)


# --- the hub ----------------------------------------------------------------------------------------------------------


def test_a_hub_checkpoint_is_fetched_with_its_tokenizer_and_without_the_pickle(monkeypatch, copied, tmp_path):
    (copied / "pytorch_model.bin").write_bytes(b"the same weights again")
    (copied / "flax_model.msgpack").write_bytes(b"and again")
    (copied / "merges.txt").write_text("")
    hub = Hub(copied, tmp_path / "cache")
    monkeypatch.setattr(checkpoints, "snapshot_download", hub)
    checkpoint = checkpoints.open_checkpoint(HUB, "CLIP", {"clip": transformers.CLIPModel})
    assert hub.asked == [("some/where", "abc")]
    assert {file.name for file in checkpoint.folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "merges.txt",
    }
    assert checkpoint.model().projection_dim == 40


def test_a_hub_checkpoint_that_has_only_a_pickle_is_fetched_as_such(monkeypatch, copied, tmp_path):
    as_pickle(copied)
    monkeypatch.setattr(checkpoints, "snapshot_download", Hub(copied, tmp_path / "cache"))
    assert checkpoints.open_checkpoint(HUB, "CLIP", {"clip": transformers.CLIPModel}).model().projection_dim == 40


class Answer:
    headers, status_code, request = {}, 403, None


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            GatedRepoError("", response=Answer()),
            "accept its licence on https://huggingface.co/some/where, .* auth login",
        ),
        (RevisionNotFoundError("", response=Answer()), "some/where@abc: no such revision; give a commit hash"),
        (RepositoryNotFoundError("", response=Answer()), "no such repository, or a private one; correct weights.hub"),
        (LocalEntryNotFoundError(""), "not in the local cache .* go online once, or download the folder elsewhere"),
        (OfflineModeIsEnabled(""), r"did not answer \(OfflineModeIsEnabled\); go online once"),
        (HfHubHTTPError("", response=Answer()), r"did not answer \(HfHubHTTPError\)"),
        (TimeoutError(), r"did not answer \(TimeoutError\)"),
    ],
    ids=["gated", "revision", "repository", "not cached", "offline", "http", "timeout"],
)
def test_a_hub_that_gives_nothing_is_an_error_with_the_remedy(monkeypatch, error, message):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(checkpoints, "snapshot_download", refuse)
    with pytest.raises(BackboneError, match=message):
        checkpoints.open_checkpoint(HUB, "CLIP", {"clip": transformers.CLIPModel})

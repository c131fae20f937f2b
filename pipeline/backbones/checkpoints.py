"""Opens checkpoints in transformers' format. Knows no architecture, no store and no video."""

import json
import math
import pickle
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,  # of the library that it asks by, whichever that is
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.utils import logging

from pipeline.backbones.base import BackboneError
from pipeline.backbones.states import UNREADABLE
from pipeline.config import Weights

SAVE_AGAIN = "download or save the checkpoint again"


@dataclass(frozen=True)
class Checkpoint:
    """A folder with config.json, weights and preprocessor files, of one of the architectures that were asked for.

    Attributes:
        folder: as save_pretrained or a hub download makes it.
        family: named in errors, such as "DINOv3".
        architecture: the transformers class that its config.json calls for.
    """

    folder: Path
    family: str
    architecture: type[PreTrainedModel]

    def model(self, device: torch.device | None = None) -> PreTrainedModel:
        """The network in float32: each of its weights is in the files, and each weight of the files is used. For the
        `meta` device it is made of config.json alone.

        Reads safetensors, or else pytorch_model.bin, whose pickled code is never run.

        Raises:
            BackboneError: weights that are absent, unreadable, incomplete or of other shapes, by name.
        """
        if device is not None and device.type == "meta":
            return self._outline()
        model, report = self.loaded()
        if wrong := first_few(report):
            raise BackboneError(f"{self.folder} does not fit its own config.json ({wrong}); {SAVE_AGAIN}")
        return model

    def _outline(self) -> PreTrainedModel:
        try:
            config = self.architecture.config_class.from_pretrained(self.folder, local_files_only=True)
            with torch.device("meta"):
                return self.architecture._from_config(config)
        except Exception as error:  # of many kinds, each about sizes that do not go together
            raise BackboneError(
                f"{self.folder / 'config.json'} describes no {self.family} ({error}); {SAVE_AGAIN}"
            ) from error

    def loaded(self) -> tuple[PreTrainedModel, Mapping[str, Sequence[str]]]:
        """The network in float32, and the keys in which files and network differ, by how: "missing_keys" and so on.

        Raises:
            BackboneError: weights that are absent or unreadable, or can only be read by running code that is in them.
        """
        try:
            with _without_bar():
                model, report = self.architecture.from_pretrained(
                    self.folder,
                    dtype=torch.float32,
                    local_files_only=True,
                    weights_only=True,
                    ignore_mismatched_sizes=True,  # they then come back in the report, with their names
                    output_loading_info=True,
                )
        except Exception as error:  # transformers raises many kinds; each means that these files are not whole
            raise pickled(self.folder, error) or BackboneError(
                f"{self.folder} holds no readable {self.family} weights ({error}); {SAVE_AGAIN}"
            ) from error
        return model, {name: sorted(map(str, keys)) for name, keys in report.items() if keys}

    def normalisation(
        self, published: Mapping[str, Any], name: str = "preprocessor_config.json"
    ) -> tuple[Sequence[float], Sequence[float]]:
        """The checkpoint's own mean and standard deviation of each colour, on [0, 1].

        Args:
            published: key of the file -> the only value that the caller implements. An absent key counts as equal: it
                is transformers' default.
            name: of the file.

        Raises:
            BackboneError: no such file, or one that asks for other arithmetic.
        """
        file = self.folder / name
        content = read_json(file)
        for key, wanted in published.items():
            got = content.get(key, wanted)
            if got != wanted and not (isinstance(got, float) and math.isclose(got, wanted, rel_tol=1e-6)):
                raise BackboneError(f"{file} has {key} {got!r}, expected {wanted!r} as in the published checkpoints")
        mean, std = content.get("image_mean"), content.get("image_std")
        if not (_three(mean) and _three(std) and min(std) > 0):
            raise BackboneError(
                f"{file} has image_mean {mean!r} and image_std {std!r}, expected three numbers each, the latter above "
                f"0; {SAVE_AGAIN}"
            )
        return mean, std


def _three(said: Any) -> bool:
    """Whether a file says three numbers."""
    numbers = isinstance(said, list) and all(isinstance(of, int | float) and math.isfinite(of) for of in said)
    return numbers and len(said) == 3


def open_checkpoint(weights: Weights, family: str, architectures: Mapping[str, type[PreTrainedModel]]) -> Checkpoint:
    """Finds a checkpoint on this machine or on the hub and reads its architecture; its weights are not read yet.

    Args:
        weights: a local folder, or hub id + revision.
        family: named in errors, such as "DINOv3".
        architectures: `model_type` of config.json -> the class that reads it.

    Raises:
        BackboneError: a folder, file or repository that is absent, or another architecture; with the remedy.
    """
    folder = checkpoint_folder(weights, family)
    found = read_json(folder / "config.json").get("model_type")
    if found not in architectures:
        raise BackboneError(
            f"{folder / 'config.json'} is of model_type {found!r}, expected {' or '.join(map(repr, architectures))}; "
            f"name the folder of a {family} checkpoint"
        )
    return Checkpoint(folder, family, architectures[found])


def checkpoint_folder(weights: Weights, family: str) -> Path:
    """The folder of a checkpoint, downloaded where it is a hub's. Raises BackboneError: there is no such one."""
    folder = _download(str(weights.hub), str(weights.revision)) if weights.hub else Path(str(weights.path))
    if not folder.is_dir():
        raise BackboneError(
            f"{family} weights {folder} are not a folder; give the folder that holds config.json, model.safetensors "
            "and preprocessor_config.json, as save_pretrained or a hub download makes it"
        )
    return folder


def pickled(folder: Path | None, error: Exception) -> BackboneError | None:
    """What to say of weights that could only be read by running code in them; None of any other error."""
    if not isinstance(error, pickle.UnpicklingError) and "weights_only" not in str(error):
        return None
    return BackboneError(
        f"{folder} has its weights only as a pickle with code in it, which is never run; where you trust it, load it "
        "there with its own library and save it again as safetensors (save_pretrained)"
    )


def read_json(file: Path) -> dict[str, Any]:
    """The mapping that a checkpoint's JSON file holds. Raises BackboneError for an absent or broken one."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BackboneError(
            f"{file} does not exist; download or save the whole checkpoint, not only its weights"
        ) from None
    except OSError as error:
        raise BackboneError(f"{file} cannot be read ({error.strerror}); download or save it again") from None
    except (ValueError, RecursionError) as error:
        raise BackboneError(f"{file} is not valid JSON ({error}); download or save it again") from None
    if not isinstance(content, dict):
        raise BackboneError(f"{file} holds a {type(content).__name__}, expected a mapping; download or save it again")
    return content


def first_few(wrong: Mapping[str, Sequence[str]]) -> str:
    """How many keys are wrong in each way, and the first of them; empty where none is."""
    return "; ".join(f"{len(keys)} {name.replace('_', ' ')}, such as {keys[0]}" for name, keys in wrong.items())


@contextmanager
def _without_bar() -> Iterator[None]:
    """Hides transformers' progress bar, which would stand between the lines of a command; downloads keep theirs."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _download(repository: str, revision: str) -> Path:
    """The local folder of a hub checkpoint, downloaded if needed: safetensors, or else pytorch_model.bin."""
    with _answering(repository, revision):
        folder = Path(
            snapshot_download(repository, revision=revision, allow_patterns=["*.json", "*.txt", "model*.safetensors"])
        )
        if not any(folder.glob("model*.safetensors")):
            snapshot_download(repository, revision=revision, allow_patterns=["pytorch_model*.bin"])
        return folder


def cached(repository: str, revision: str) -> Path | None:
    """The local folder of a hub checkpoint; None where it is not here yet. Asks no hub."""
    found = try_to_load_from_cache(repository, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def expect_reachable(repository: str, revision: str) -> int:
    """Asks the hub for a checkpoint without downloading it.

    Returns:
        Bytes of what `open_checkpoint` would download.

    Raises:
        BackboneError: it is gated, absent, or the hub does not answer; with the remedy.
    """
    with _answering(repository, revision):
        hub = HfApi()
        hub.auth_check(repository)
        files = hub.model_info(repository, revision=revision, files_metadata=True).siblings or []
    sizes = {file.rfilename: file.size or 0 for file in files}
    ending = ".safetensors" if any(name.endswith(".safetensors") for name in sizes) else ".bin"
    return sum(size for name, size in sizes.items() if name.endswith((ending, ".json", ".txt")))


def expect_whole(path: Path) -> list[Path]:
    """The files of weights on this disk, each opened, none loaded.

    Args:
        path: a checkpoint's folder, or a file of a state dict.

    Raises:
        BackboneError: what is absent, or torn, by name and with the remedy.
    """
    if not path.exists():
        raise BackboneError(f"{path} does not exist; download it there, or correct its path in params")
    files = [path]
    if path.is_dir():
        read_json(path / "config.json")
        files = sorted(path.glob("*.safetensors")) or sorted(path.glob("*.bin"))
        for index in path.glob("*.safetensors.index.json"):
            named = {path / str(name) for name in dict(read_json(index).get("weight_map", {})).values()}
            if absent := sorted(named - set(files)):
                raise BackboneError(f"{absent[0]} does not exist, but {index.name} names it; download it again")
        if not files:
            raise BackboneError(f"{path} holds no .safetensors and no .bin; download the whole checkpoint")
    for file in files:
        try:
            if file.suffix == ".safetensors":
                with safe_open(file, "pt"):
                    pass
            else:
                torch.load(file, "meta", weights_only=True, mmap=zipfile.is_zipfile(file))
        except UNREADABLE as error:
            cause = (str(error) or type(error).__name__).splitlines()[0]
            raise BackboneError(f"{file} cannot be read ({cause}); download it again") from error
    return files


@contextmanager
def _answering(repository: str, revision: str) -> Iterator[None]:
    """Each way in which a hub does not give a checkpoint is a BackboneError with its remedy."""
    name = f"{repository}@{revision}"
    try:
        yield
    except GatedRepoError:
        raise BackboneError(
            f"{name} is gated: accept its licence on https://huggingface.co/{repository}, then run `hf auth login` "
            "or set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise BackboneError(f"{name}: no such revision; give a commit hash of that repository") from None
    except RepositoryNotFoundError:
        raise BackboneError(
            f"{name}: no such repository, or a private one; correct weights.hub, or log in with `hf auth login`"
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HTTPError, HfHubHTTPError, OSError) as error:
        raise BackboneError(
            f"{name} is not in the local cache and the hub did not answer ({type(error).__name__}); go online once, or "
            "download the folder elsewhere and give its path as weights.path"
        ) from error

"""Reads PyTorch state dicts from files or torchvision's server, and runs no code in them. Knows no architecture."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import WeightsEnum

from pipeline.backbones.base import BackboneError
from pipeline.config import Weights

UNREADABLE = (
    *(SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile),
    *(RuntimeError, EOFError, OSError, ValueError),
)


def open_state(weights: Weights, known: Mapping[str, WeightsEnum], what: str) -> tuple[Mapping[str, Tensor], str]:
    """A state dict from a file, or one of torchvision's own, and where it is from, for messages.

    Args:
        weights: a path, or hub + revision.
        known, what: as for `download_state` and `read_state`.

    Raises:
        BackboneError: as these two.
    """
    if weights.hub is not None:
        return download_state(known, weights.hub, str(weights.revision)), f"{weights.hub}@{weights.revision}"
    return read_state(Path(str(weights.path)), what), str(weights.path)


def read_state(file: Path, what: str) -> Mapping[str, Tensor]:
    """A state dict from .safetensors, or from torch.save's format.

    Args:
        file: .safetensors, or .pth, .pt and the like.
        what: the network and whose key names are wanted, for messages: "R3D-18 weights with torchvision's key names".

    Returns:
        Names to tensors, on the CPU, in the dtypes of the file.

    Raises:
        BackboneError: the file is absent, unreadable, or holds anything but tensors; with the remedy.
    """
    if not file.is_file():
        raise BackboneError(f"{file} is not a file; give a .safetensors or .pth state dict: {what}")
    try:
        _refuse_compressed(file)
        state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except UNREADABLE as error:
        cause = (str(error) or type(error).__name__).splitlines()[0]
        raise BackboneError(
            f"{file} cannot be read as a state dict ({cause}); expected {what}: save only tensors, with "
            "safetensors.torch.save_file or torch.save(model.state_dict(), ...)"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BackboneError(
            f"{file} holds {type(state).__name__}, expected a state dict: names to tensors, nothing else ({what})"
        )
    return state


def _refuse_compressed(file: Path) -> None:
    """Raises ValueError for compressed members: torch.save writes none, and they may unpack to any size."""
    if file.suffix != ".safetensors" and zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("its members are compressed, which torch.save never does")


def download_state(known: Mapping[str, WeightsEnum], hub: str, revision: str) -> Mapping[str, Tensor]:
    """One of torchvision's own files, kept in torch's cache; its sha256 prefix is checked against the file's name.

    Args:
        known: "torchvision/<its name>" -> entry of torchvision, which gives the address.
        hub: one of `known`.
        revision: the hash in the file's name, as `revision_of` reads it.

    Raises:
        BackboneError: another hub or revision, or the download failed; with the remedy.
    """
    entry = known.get(hub)
    if entry is None or revision != revision_of(entry):
        offered = ", ".join(f"{name} (revision {revision_of(each)})" for name, each in known.items())
        raise BackboneError(
            f"weights {hub}@{revision} are unknown; the installed torchvision offers {offered}; for other weights "
            "download the state dict and give its path as weights.path"
        )
    try:
        return torch.hub.load_state_dict_from_url(entry.url, map_location="cpu", check_hash=True, weights_only=True)
    except (URLError, OSError, RuntimeError) as error:
        raise BackboneError(
            f"{entry.url} could not be downloaded ({error}); go online once, or download that file elsewhere and give "
            "its path as weights.path"
        ) from error


def revision_of(entry: WeightsEnum) -> str:
    """The hash in the name of torchvision's file: ".../r3d_18-b3b3357e.pth" -> "b3b3357e"."""
    return entry.url.rpartition("-")[2].removesuffix(".pth")

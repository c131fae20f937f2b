"""Features of your own files, from Python: what `permafrost extract` does. Imports torch when it runs."""

import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from permafrost.stores import Store


def extract(
    paths: Sequence[str | os.PathLike] | str | os.PathLike,
    backbone: str,
    weights: str | os.PathLike | Mapping[str, Any] | None = None,
    *,
    out: str | os.PathLike,
    frames: int | None = None,
    fps: float | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int = 1,
    decode_workers: int | None = None,
    progress: Callable[[str], None] = print,
    **settings: Any,
) -> Store:
    """Runs a frozen backbone over videos and pictures, and opens the store that this makes, or adds to.

    Call it again to go on where it was killed, to add files, or to try files again that have changed. A file that
    cannot be read is in `store.failed` with its reason; its neighbours are not touched.

    Args:
        paths: files, or folders of them. A sample's id is its path below the folder, or its name, without suffix.
        backbone: `permafrost extract --list-backbones` lists them; `my_package.module:MyBackbone` for another.
        weights: a file or folder, OWNER/NAME@REVISION of a hub, random:SEED, or "mini": the shipped ones, for trying.
        out: folder of the store and its manifest.
        frames: of each video, at the centres of as many equal parts; by default what is usual for the backbone.
        fps: rows a second, of a backbone that gives a row a frame.
        device, threads: of this machine. Threads decide the order of sums, so the last bits.
        decode_workers: processes that decode beside the backbone; 0 decodes in this one. By default 1, but 0 where a
            script calls: processes would start it again, so it needs `if __name__ == "__main__":` for them.
        progress: called with a line now and then.
        settings: further fields of the feature: `pool=2`, `precision="bf16"`, `preprocess={"resize": [256, 256]}`.

    Warns:
        UserWarning: weights whose features mean nothing on real videos.

    Raises:
        ParamsError: no weights, or what does not fit the backbone. FilesError: no such file. ExtractionError,
        BackboneError, StoreError: with the remedy; what was computed is kept.
    """
    from pipeline.config import parse_params
    from pipeline.features_only import choose, extract_files

    choice = choose(backbone, weights, frames, fps, settings)
    for warning in choice.warnings:
        warnings.warn(warning, stacklevel=2)
    if decode_workers is None:
        decode_workers = int(not hasattr(sys.modules["__main__"], "__file__"))
    options = {"device": device, "extract_threads": threads, "decode_workers": decode_workers}
    compute = parse_params({"compute": options}, "the arguments").compute
    return Store(extract_files(paths, choice, out, "store", compute, progress).folder)

"""Class-activation maps and patch embeddings, from the tokens that enter one of CLIP's last blocks. Reads no picture.

Shape suffixes: B samples, T tokens (CLS, then N patches), N patches, D width, E embedding width, C texts.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipeline.backbones.clip_cam_blocks import LastBlocks
from pipeline.config import Params, feature_dir
from pipeline.datasets import read_manifest
from pipeline.datasets.twins import refuse_one_text
from pipeline.extraction.device import Device, Fields, halving
from pipeline.extraction.made import Made
from pipeline.extraction.progress import ExtractionError
from pipeline.store import FeatureStore
from pipeline.transfers import sent

LOGIT_SCALE = 100.0  # of every published CLIP


class Cams:
    """The map of each picture's best text, before the ReLU, and the projected embeddings of its patches.

    Only a map's ranks are used, so it is divided by its largest magnitude: float16 then holds it, whatever the size of
    its gradients.

    Attributes:
        grid, fields: of the derived feature: `map` (N,) in [-1, 1], `patch_embed` (N, E), both float16.
        device, computed_on: where it is computed, and its type.
        reads: name -> provenance of what it is made from beside its source.

    Raises:
        ExtractionError: the texts' vectors are not of this CLIP's width, or a text failed.
        StoreMissing: a text of the manifest is not in the store.
        DatasetError: two texts have one embedding.
    """

    def __init__(self, params: Params, feature: str, root: Path) -> None:
        chosen = params.features[feature]
        torch.set_num_threads(params.compute.extract_threads)
        self.chosen, self.device = chosen, Device(params.compute)
        self.computed_on = self.device.type
        source = params.features[chosen.source]
        self.blocks = LastBlocks(source.weights, source.block, self.device.device, finite=True)
        texts = FeatureStore(feature_dir(params, chosen.texts.dataset, chosen.texts.feature, root), verify=True)
        # The manifest says which texts there are: a store may hold one that was removed, or lack a shard.
        listed = read_manifest(root / chosen.texts.dataset / "manifest.parquet")["sample"].tolist()
        if failed := [text for text in listed if text in texts.failed]:
            raise ExtractionError(f"{feature}: the text {failed[0]!r} has no embedding: {texts.failed[failed[0]]}")
        ((name, (shape, _)),) = texts.fields.items()
        if shape != (self.blocks.last.embed_dim,):
            raise ExtractionError(
                f"{feature}: the texts' vectors in {chosen.texts.feature} are {shape[0]} wide, this CLIP's embeddings "
                f"{self.blocks.last.embed_dim}; embed them with the same checkpoint"
            )
        vectors_CE = texts.read(listed, name)
        refuse_one_text(listed, listed, chosen.texts.dataset, vectors_CE)
        self.classes_CE = torch.from_numpy(vectors_CE).to(self.device.device, torch.float32)
        self.reads = {chosen.texts.feature: texts.provenance}
        rows, columns = self.blocks.last.grid
        self.grid = (1, rows, columns)
        self.fields = {
            "map": ((rows * columns,), "float16"),
            "patch_embed": ((rows * columns, self.blocks.last.embed_dim), "float16"),
        }

    def __call__(self, source: FeatureStore, samples: Sequence[str]) -> Iterator[Made]:
        """The fields of each sample: all are computed at once, and waited for with the first."""
        if not samples:
            return iter(())
        (name,) = source.fields
        return _each(halving(self._computed, torch.from_numpy(source.read(list(samples), name))), len(samples))

    def _computed(self, tokens_BTD: Tensor) -> Callable[[], Fields]:
        stored = {field: dtype for field, (_, dtype) in self.fields.items()}
        return self.device.download(dict(zip(stored, self.of(tokens_BTD), strict=True)), stored)

    def of(self, tokens_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (B, N) in [-1, 1] and patch embeddings (B, N, E), float32 on this device."""
        tokens_BTD = sent(tokens_BTD, self.classes_CE.device).to(torch.float32)
        last_BTD = self.blocks.before_last(tokens_BTD)
        maps_BN = self.blocks.cam(tokens_BTD, self.targets(last_BTD), self.chosen.cam_blocks, self.chosen.site)
        largest_B1 = maps_BN.abs().amax(dim=1, keepdim=True)
        maps_BN = maps_BN / largest_B1.clamp_min(torch.finfo(torch.float32).tiny)
        if self.chosen.patches == "value":
            return maps_BN, self.blocks.last.value_embed(last_BTD)
        return maps_BN, self.blocks.last.patch_embed(last_BTD, self.chosen.post_norm)

    def targets(self, last_BTD: Tensor) -> Tensor:
        """(B, E): what each map explains: the best text's logit or its probability."""
        embed_BE = self.blocks.last.embed(last_BTD)
        best_B = (embed_BE @ self.classes_CE.T).argmax(dim=1)
        if self.chosen.target == "logit":
            return self.classes_CE[best_B]
        return self.blocks.last.softmax_target(embed_BE, self.classes_CE, best_B, LOGIT_SCALE)


def _each(computed: Callable[[], Fields], count: int) -> Iterator[Made]:
    fields = computed()
    for row in range(count):
        yield Made({name: field[row] for name, field in fields.items()})

"""What a segmentation head says of a batch, in training and after it. Knows no loss and no trainer."""

from torch import nn

from pipeline.heads.fact.clip import Embeddings, FactClip
from pipeline.heads.fact.outputs import BlockOutput
from pipeline.training.table import Batch


def answer(model: nn.Module, batch: Batch) -> tuple[list[BlockOutput], Embeddings | None]:
    """What the blocks say of a batch, and the embeddings that are compared with texts where the head has any."""
    given = batch["frames"].float(), batch["mask"]
    if isinstance(model, FactClip):
        return model(*given)
    return model(*given, batch["transcript"] if model.transcript else None), None

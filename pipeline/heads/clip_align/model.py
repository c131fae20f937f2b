"""clip_align: a video's tokens and a clinician's attention map in one space. Knows no store, no params and no trainer.

Shape suffixes: B videos, T steps, N tokens of a step (H rows x W columns), V width of a cached token, D width inside, C
channels of a map, F width of a feature.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .encoders import ENCODERS, GROUPS, MapEncoder, Projection, Readout, TokenEncoder
from .guidance import GATES, GUIDANCES, Guidance, step_map, token_map

SOURCES = ("video", "attn", "fusion")
PUBLISHED = "published"
TEMPERATURE = 0.07  # at first; what is learned is the log of its inverse


@dataclass(frozen=True)
class Video:
    """The video's side, under some map.

    Attributes:
        feat: (B, F).
        embed: (B, embed_dim), unit length.
        gated_tokens: (B, T, H, W, D), as they were pooled.
        gate: (B, T, H, W) of cells, (B, D) of channels, (B, F) of the feature, or None, by guidance.
        log_map: (B, H, W), the logarithm of the predicted map, or None.
    """

    feat: Tensor
    embed: Tensor
    gated_tokens: Tensor
    gate: Tensor | None
    log_map: Tensor | None


@dataclass(frozen=True)
class AlignOutput:
    """What the model says of a batch.

    Attributes:
        logits: (B, classes).
        video_embed, attn_embed: (B, embed_dim), unit length.
        video_feat, attn_feat: (B, F).
        video_tokens: (B, T, H, W, D), of the token encoder, before any gate.
        gated_tokens, gate, log_map: see `Video`.
        token_map: (B, T, H, W), see there; of the row's own map even where map dropout hid it.
        step_map: (B, T, H, W), see there, where a map is predicted; else None.
        has_map: (B,) bool, rows that may be aligned with their map.
        log_scale: scalar, of the contrastive loss.
    """

    logits: Tensor
    video_embed: Tensor
    attn_embed: Tensor
    video_feat: Tensor
    attn_feat: Tensor
    video_tokens: Tensor
    gated_tokens: Tensor
    gate: Tensor | None
    log_map: Tensor | None
    token_map: Tensor
    step_map: Tensor | None
    has_map: Tensor
    log_scale: Tensor


class ClipAlign(nn.Module):
    """A diagnosis from a video's cached tokens, guided by an attention map, and both in one embedding space.

    Args:
        width_in: V.
        grid: (T, H, W) of the tokens.
        classes: how many.
        channels: C of the maps. Guidance takes their mean over channels; the map encoder reads them all.
        scale: a map has so many times the grid's rows and columns.
        encoder: "3dcnn", "2dcnn" or "cnn_lstm"; see `TokenEncoder` and `Readout`.
        guidance, gate: see `Guidance`.
        width: D, a multiple of 8.
        feature_dim, embed_dim: of either side.
        map_width: channels of the map encoder, a multiple of 8.
        dropout: of the projections.
        classifier_source: what the classifier reads: "video", "attn", or "fusion", the mean of both features.
        map_dropout: in training, the share of videos that are guided and classified under the mean map. They are still
            aligned with their own: whoever looks without a map learns where a clinician would. Not with "predicted".
        map_teach: of "predicted", in training, the share of videos with a map that are pooled by it; the others are
            pooled by the predicted map. Outside of training both have half where there is a map.
        compat: "published": the original model, which guides the 3-D encoder only: with the others any guidance becomes
            "summary_gate". None: this project's.

    Attributes:
        mean_map_CTHW: stands for the map where there is none; uniform until `mean_map_CTHW.copy_(...)`.
        guidance: a submodule that is made last, so that with one seed models that differ in it have all else alike.

    Raises:
        ValueError: arguments that are unknown or do not fit, with the remedy.
    """

    mean_map_CTHW: Tensor

    def __init__(
        self,
        width_in: int,
        grid: Sequence[int],
        classes: int,
        channels: int = 1,
        scale: int = 2,
        *,
        encoder: str,
        guidance: str,
        gate: str,
        width: int,
        feature_dim: int,
        embed_dim: int,
        map_width: int,
        dropout: float,
        classifier_source: str,
        map_dropout: float,
        map_teach: float,
        compat: str | None = None,
    ):
        super().__init__()
        for name, value, known in (
            ("encoder", encoder, ENCODERS),
            ("guidance", guidance, GUIDANCES),
            ("gate", gate, GATES),
            ("classifier_source", classifier_source, SOURCES),
            ("compat", compat, (None, PUBLISHED)),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(str, known))}")
        for name, value in (("width", width), ("map_width", map_width)):
            if value % GROUPS:
                raise ValueError(f"{name} is {value}, expected a multiple of {GROUPS}, the groups of its norms")
        alone = (("classifier_source", classifier_source, "video"), ("map_dropout", map_dropout, 0))
        for name, value, wanted in (*alone, ("gate", gate, "linear"), ("compat", compat, None)):
            if guidance == "predicted" and value != wanted:
                raise ValueError(f"{name} is {value!r}, but guidance is 'predicted', which goes with {wanted!r} alone")
        steps, rows, columns = grid
        self.grid, self.width_in, self.scale = (steps, rows, columns), width_in, scale
        self.source, self.map_dropout, self.map_teach = classifier_source, map_dropout, map_teach
        map_shape = (channels, steps, rows * scale, columns * scale)

        self.tokens = TokenEncoder(encoder, width_in, width)
        self.readout = Readout(encoder, width, feature_dim)
        self.maps = MapEncoder(map_shape, map_width, feature_dim)
        self.project_video = Projection(feature_dim, embed_dim, dropout)
        self.project_attn = Projection(feature_dim, embed_dim, dropout)
        self.classifier = nn.Linear(feature_dim, classes)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(TEMPERATURE)))
        self.register_buffer("mean_map_CTHW", torch.zeros(map_shape))
        if compat == PUBLISHED and encoder != "3dcnn" and guidance != "none":
            guidance = "summary_gate"
        self.guidance = Guidance(guidance, gate, width, feature_dim)

    @classmethod
    def of(cls, config: Any, samples: Any) -> "ClipAlign":
        """The head that a person's choices, and the tokens and maps of samples, make.

        Raises:
            ValueError: maps are to be learned from, and no clip that is learned from has one.
        """
        tokens, maps, chosen = samples.streams["tokens"], samples.streams["maps"], config.model.model_dump()
        guided, kind, sigmoid = (chosen.pop(name) for name in ("map_guided", "map_guided_type", "sigmoid_gate"))
        head = cls(
            tokens.width,
            tokens.grid,
            len(samples.classes),
            maps.channels,
            maps.scale,
            guidance=kind if guided else "none",
            gate="sigmoid" if sigmoid else "linear",
            compat=config.compat,
            **chosen,
        )
        learned = samples.parts["train"]  # none where new files are asked about
        taught = config.loss.lambda_map or head.map_teach
        if head.predicts and taught and learned and not any(samples.maps[sample] for sample in learned):
            raise ValueError(
                f"map_guided_type is 'predicted', and none of the {len(learned)} clips of train has a map to learn "
                "from; name maps in the csv, or set map_teach and loss.lambda_map to 0: attention pooling without maps"
            )
        head.mean_map_CTHW.copy_(samples.mean_map)
        # What no loss reaches is not trained: weight decay would change it, and several devices would wait for it.
        if not config.loss.clip_weight:
            idle = [head.project_video, head.project_attn, *([head.maps] if head.source == "video" else [])]
            for module in idle:
                module.requires_grad_(False)
            head.log_scale.requires_grad_(False)
        return head

    @property
    def predicts(self) -> bool:
        """Whether it predicts the map of a video."""
        return self.guidance.kind == "predicted"

    def logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(B, K) of a batch by role, each clip under its own map where it has one."""
        return self(batch["tokens"], batch["maps"], batch["has_map"]).logits

    def forward(
        self, tokens_BTNV: Tensor, map_BCTHW: Tensor | None = None, has_map_B: Tensor | None = None
    ) -> AlignOutput:
        """Logits and embeddings of a batch.

        Args:
            tokens_BTNV: frozen features of any float type.
            map_BCTHW: the maps, finite and >= 0, of any float type; None: the mean map for all, and no row has a map.
            has_map_B: bool, rows that have one; None: all. The others are under a uniform map, whatever stands there.
                A model that predicts maps pools rows without one by its own, in both cases.

        Raises:
            ValueError: a shape that is not what the model was built for.
        """
        video_tokens = self.encode(tokens_BTNV)
        videos = len(video_tokens)
        if map_BCTHW is None:
            map_BCTHW = self.mean_map_CTHW.expand(videos, *self.mean_map_CTHW.shape)
            has_map_B = map_BCTHW.new_zeros(videos, dtype=torch.bool)
        else:
            map_BCTHW = self._checked(map_BCTHW, videos)
            if has_map_B is None:
                has_map_B = map_BCTHW.new_ones(videos, dtype=torch.bool)
            map_BCTHW = torch.where(_column(has_map_B), map_BCTHW, 0.0)
        guide_BCTHW, dropped_B, share_B = map_BCTHW, None, None
        if self.predicts:
            guide_BCTHW = torch.where(_column(has_map_B), map_BCTHW, 0.0)  # no mean map: that would be another's
            if self.training:
                share_B = (torch.rand(videos, device=has_map_B.device) < self.map_teach) & has_map_B
        elif self.training and self.map_dropout:
            dropped_B = (torch.rand(videos, device=has_map_B.device) < self.map_dropout) & has_map_B
            guide_BCTHW = torch.where(_column(dropped_B), self.mean_map_CTHW, map_BCTHW)

        video = self.video(video_tokens, guide_BCTHW, share_B)
        attn_feat, attn_embed = self.attention(map_BCTHW)
        shown_feat = attn_feat
        if dropped_B is not None and self.source != "video":
            shown_feat = torch.where(dropped_B[:, None], self.maps(self.mean_map_CTHW[None]), attn_feat)
        feature = {"video": video.feat, "attn": shown_feat, "fusion": (video.feat + shown_feat) / 2}[self.source]
        return AlignOutput(
            logits=self.classifier(feature),
            video_embed=video.embed,
            attn_embed=attn_embed,
            video_feat=video.feat,
            attn_feat=attn_feat,
            video_tokens=video_tokens,
            gated_tokens=video.gated_tokens,
            gate=video.gate,
            log_map=video.log_map,
            token_map=token_map(map_BCTHW, self.scale),
            step_map=step_map(guide_BCTHW, self.scale) if self.predicts else None,
            has_map=has_map_B,
            log_scale=self.log_scale,
        )

    def encode(self, tokens_BTNV: Tensor) -> Tensor:
        """(B, T, H, W, D): the token grid, which has seen no map. For several maps, encode once and call `video`."""
        steps, rows, columns = self.grid
        wanted = (len(tokens_BTNV), steps, rows * columns, self.width_in)
        if tokens_BTNV.shape != wanted:
            raise ValueError(
                f"tokens have shape {tuple(tokens_BTNV.shape)}, expected {wanted} = (videos, steps, tokens, width); "
                "build the model from the feature's own grid, or extract again"
            )
        return self.tokens(tokens_BTNV.to(self.mean_map_CTHW.dtype).unflatten(2, (rows, columns)))

    def video(self, video_tokens: Tensor, guide_BCTHW: Tensor | None = None, share_B: Tensor | None = None) -> Video:
        """The video's side of encoded tokens under any map: its own, another's, the mean; None: a uniform one.

        Under a uniform map nothing of a map is in the embedding, so retrieval by it measures no leak; a model that
        predicts maps pools by its own there. `share_B`: see `Guidance`.
        """
        videos = len(video_tokens)
        if guide_BCTHW is None:
            m_BTHW = video_tokens.new_zeros(videos, *self.grid)
        else:
            m_BTHW = self.guidance.read(self._checked(guide_BCTHW, videos), self.scale)
        guided = self.guidance(video_tokens, m_BTHW, share_B)
        feat, summary = self.guidance.scale(self.readout(guided.tokens_BTHWD, guided.weight_BTHW), m_BTHW)
        gate = guided.gate if summary is None else summary
        return Video(feat, self.project_video(feat), guided.tokens_BTHWD, gate, guided.log_map_BHW)

    def attention(self, map_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        """The map's side: feature (B, F) and embedding (B, embed_dim)."""
        feat = self.maps(self._checked(map_BCTHW, len(map_BCTHW)))
        return feat, self.project_attn(feat)

    def _checked(self, map_BCTHW: Tensor, videos: int) -> Tensor:
        """The maps in the model's precision."""
        wanted = (videos, *self.mean_map_CTHW.shape)
        if map_BCTHW.shape != wanted:
            raise ValueError(
                f"maps have shape {tuple(map_BCTHW.shape)}, expected {wanted} = (videos, channels, steps, rows, "
                f"columns), {self.scale} times the rows and columns of the tokens' grid {self.grid}; derive the maps "
                "from the same feature as the tokens, or build the model with their channels and scale"
            )
        return map_BCTHW.to(self.mean_map_CTHW.dtype)


def _column(flag_B: Tensor) -> Tensor:
    """(B, 1, 1, 1, 1), to choose among maps."""
    return flag_B[:, None, None, None, None]

"""FACT as its description reads, to measure against: one video at a time, no trick. Knows nothing of heads.fact's code.

Chains of one i and any u and U, branches m and m2, classes of one channel each, no transcript. Convolutions lie
channels first and are not fused, matching compares (T, M, S) arrays, segments are found and pooled by Python loops.
`load` takes the weights of heads.fact.Fact.

Shape suffixes: T frames, P positions of an axis (frames, or a block's segments), M tokens, S true segments, C classes,
D any width.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

Run = tuple[int, int, int]  # label, start, stop


class Answer(NamedTuple):
    """One block's output; a2f_TM has the logits of a frame's segment in U. Without attention None."""

    frame_TC: Tensor
    token_MK: Tensor
    f2a_MP: Tensor | None = None
    a2f_PM: Tensor | None = None
    a2f_TM: Tensor | None = None
    segment_SC: Tensor | None = None
    runs: list[Run] | None = None


def runs_of(labels_T: Tensor) -> list[Run]:
    """Runs of equal labels, frame by frame."""
    found, start = [], 0
    for t in range(1, len(labels_T) + 1):
        if t == len(labels_T) or labels_T[t] != labels_T[start]:
            found.append((int(labels_T[start]), start, t))
            start = t
    return found


def sinusoid(length: int, width: int) -> Tensor:
    angle = torch.arange(length)[:, None] * 10_000 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    code = torch.zeros(length, width, dtype=torch.float64)
    code[:, 0::2], code[:, 1::2] = angle.sin(), angle.cos()
    return code


def process(x_ND: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """What goes on, and the logits: the last channels."""
    return torch.cat([x_ND[:, :-channels], x_ND[:, -channels:].softmax(1)], 1), x_ND[:, -channels:]


# --- parts ------------------------------------------------------------------------------------------------------------


class Dilated(nn.Module):
    def __init__(self, width: int, dilation: int, dropout: float, norm: bool):
        super().__init__()
        self.taps = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.mix = nn.Conv1d(width, width, 1)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width) if norm else None

    def forward(self, x_1DT: Tensor) -> Tensor:
        x_1DT = x_1DT + self.dropout(self.mix(F.relu(self.taps(x_1DT))))
        return x_1DT if self.norm is None else self.norm(x_1DT.transpose(1, 2)).transpose(1, 2)


class DualDilated(nn.Module):
    def __init__(self, width: int, layer: int, layers: int, dropout: float):
        super().__init__()
        wide, narrow = 2 ** (layers - 1 - layer), 2**layer
        self.first = nn.Conv1d(width, width, 3, padding=wide, dilation=wide)
        self.second = nn.Conv1d(width, width, 3, padding=narrow, dilation=narrow)
        self.mix = nn.Conv1d(2 * width, width, 1)
        self.dropout = nn.Dropout(dropout if layer < layers - 1 else 0.0)

    def forward(self, x_1DT: Tensor) -> Tensor:
        mixed = self.mix(torch.cat([self.first(x_1DT), self.second(x_1DT)], 1))
        return x_1DT + self.dropout(F.relu(mixed))


class FrameBranch(nn.Module):
    def __init__(self, s: Any, feature_dim: int | None):
        super().__init__()
        self.enter = nn.Conv1d(feature_dim, s.f_dim, 1) if feature_dim else nn.Identity()
        self.layers = nn.Sequential(
            *(
                Dilated(s.f_dim, 2**i, s.dropout, s.f_ln)
                if s.f == "m"
                else DualDilated(s.f_dim, i, s.f_layers, s.dropout)
                for i in range(s.f_layers)
            )
        )
        self.leave = nn.Conv1d(s.f_dim, s.hid_dim, 1)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.leave(self.layers(self.enter(x_TD.t()[None])))[0].t()


class TokenLayer(nn.Module):
    def __init__(self, s: Any, memory: bool):
        super().__init__()
        self.own = nn.MultiheadAttention(s.a_dim, s.a_nhead, s.dropout, batch_first=True)
        self.cross = (
            nn.MultiheadAttention(s.a_dim, s.a_nhead, s.dropout, kdim=s.hid_dim, vdim=s.hid_dim, batch_first=True)
            if memory
            else None
        )
        self.forth, self.back = nn.Linear(s.a_dim, s.a_ffdim), nn.Linear(s.a_ffdim, s.a_dim)
        self.norms = nn.ModuleList(nn.LayerNorm(s.a_dim) for _ in range(3 if memory else 2))
        self.dropout = nn.Dropout(s.dropout)

    def forward(self, x_MD: Tensor, query_MD: Tensor, key_TD: Tensor | None, memory_TD: Tensor | None) -> Tensor:
        asking = x_MD + query_MD
        x_MD = self.norms[0](x_MD + self.dropout(self.own(asking, asking, x_MD, need_weights=False)[0]))
        if self.cross is not None:
            read_MD = self.cross(x_MD + query_MD, key_TD, memory_TD, need_weights=False)[0]
            x_MD = self.norms[1](x_MD + self.dropout(read_MD))
        return self.norms[-1](x_MD + self.dropout(self.back(self.dropout(F.relu(self.forth(x_MD))))))


class TokenBranch(nn.Module):
    def __init__(self, s: Any, memory: bool):
        super().__init__()
        self.layers = nn.ModuleList(TokenLayer(s, memory) for _ in range(s.a_layers))
        self.norm = nn.LayerNorm(s.a_dim) if memory else nn.Identity()
        self.leave = nn.Linear(s.a_dim, s.hid_dim)

    def forward(
        self, x_MD: Tensor, query_MD: Tensor, key_TD: Tensor | None = None, memory_TD: Tensor | None = None
    ) -> Tensor:
        for layer in self.layers:
            x_MD = layer(x_MD, query_MD, key_TD, memory_TD)
        return self.leave(self.norm(x_MD))


class CrossAttention(nn.Module):
    def __init__(self, width: int, out: int, dropout: float):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.out, self.dropout = nn.Linear(2 * width, out), nn.Dropout(dropout)

    def forward(self, y_QD: Tensor, x_KD: Tensor, y_place: Tensor, x_place: Tensor) -> tuple[Tensor, Tensor]:
        logits_QK = self.query(y_QD + y_place) @ self.key(x_KD + x_place).t() / y_QD.shape[1] ** 0.5
        read_QD = logits_QK.softmax(1) @ self.value(x_KD)
        return self.out(self.dropout(torch.cat([y_QD, read_QD], 1))), logits_QK


class SegmentBranch(nn.Module):
    def __init__(self, s: Any):
        super().__init__()
        self.gru = nn.GRU(s.hid_dim, s.hid_dim // 2, s.s_layers, bidirectional=True)
        self.leave = nn.Linear(s.hid_dim, s.hid_dim)

    def forward(self, x_TD: Tensor, runs: list[Run]) -> Tensor:
        mean_SD = torch.stack([x_TD[start:stop].mean(0) for _, start, stop in runs])
        return self.leave(F.relu(self.gru(mean_SD)[0]))


# --- blocks and model -------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, s: Any, n_classes: int, feature_dim: int | None):
        super().__init__()
        self.kind, self.n_classes = s.kind, n_classes
        self.frames, self.tokens = FrameBranch(s, feature_dim), TokenBranch(s, memory=s.kind == "i")
        if s.kind != "i":
            self.f2a = CrossAttention(s.hid_dim, s.a_dim, s.dropout)
            self.a2f = CrossAttention(s.hid_dim, s.f_dim, s.dropout)
        if s.kind == "U":
            self.segments = SegmentBranch(s)
            self.merge = nn.Linear(s.f_dim + s.hid_dim, s.f_dim)

    def forward(
        self, frame_TD: Tensor, token_MD: Tensor, place_TD: Tensor, query_MD: Tensor, before: Answer | None
    ) -> tuple[Tensor, Tensor, Answer]:
        """Frames and tokens for the next block, and this one's answer."""
        if self.kind == "i":
            frame_TD, frame_TC = process(self.frames(frame_TD), self.n_classes)
            tokens = self.tokens(token_MD, query_MD, frame_TD + place_TD, frame_TD)
            token_MD, token_MK = process(tokens, self.n_classes + 1)
            return frame_TD, token_MD, Answer(frame_TC, token_MK)
        query_MH = F.pad(query_MD, (0, token_MD.shape[1] - query_MD.shape[1]))
        x_PD, place_PD, segment_SC, runs = frame_TD, place_TD, None, None
        if self.kind == "U":
            runs = runs_of(before.frame_TC.argmax(1))
            x_PD, segment_SC = process(self.segments(frame_TD, runs), self.n_classes)
            place_PD = torch.stack([place_TD[(start + stop - 1) // 2] for _, start, stop in runs])
        tokens, f2a_MP = self.f2a(token_MD, x_PD, query_MH, place_PD)
        token_MD, token_MK = process(self.tokens(tokens, query_MD), self.n_classes + 1)
        x_PD, a2f_PM = self.a2f(x_PD, token_MD, place_PD, query_MH)
        a2f_TM = a2f_PM
        if self.kind == "U":
            x_PD = torch.cat([x_PD[i].expand(stop - start, -1) for i, (_, start, stop) in enumerate(runs)])
            a2f_TM = torch.cat([a2f_PM[i].expand(stop - start, -1) for i, (_, start, stop) in enumerate(runs)])
            x_PD = F.relu(self.merge(torch.cat([x_PD, frame_TD], 1)))
        frame_TD, frame_TC = process(self.frames(x_PD), self.n_classes)
        return frame_TD, token_MD, Answer(frame_TC, token_MK, f2a_MP, a2f_PM, a2f_TM, segment_SC, runs)


class PlainFact(nn.Module):
    """The model; arguments as those of heads.fact.Fact. (T, feature_dim) -> the blocks' answers."""

    def __init__(
        self,
        feature_dim: int,
        n_classes: int,
        tokens: int,
        blocks: Sequence[Any],
        cmr: float = 0.0,
        time_mask: tuple[int, float, int] | None = None,
        fpos: bool = True,
    ):
        super().__init__()
        self.cmr, self.time_mask, self.fpos, self.width = cmr, time_mask, fpos, blocks[0].hid_dim
        self.query_MA = nn.Parameter(torch.randn(tokens, blocks[0].a_dim))
        self.blocks = nn.ModuleList(
            Block(block, n_classes, None if i else feature_dim) for i, block in enumerate(blocks)
        )

    def forward(self, frame_TD: Tensor) -> list[Answer]:
        if self.training:
            frame_TD = F.dropout1d(frame_TD.t()[None], self.cmr)[0].t().clone()
            longest, share, times = self.time_mask or (0, 0.0, 0)
            for _ in range(times):
                length = min(int(torch.randint(longest, ())), int(share * len(frame_TD)))
                start = int(torch.randint(len(frame_TD) - length + 1, ()))
                frame_TD[start : start + length] = 0
        shape = len(frame_TD), self.width
        place_TD = sinusoid(*shape).to(frame_TD) if self.fpos else frame_TD.new_zeros(shape)
        token_MD, answers = torch.zeros_like(self.query_MA), []
        for block in self.blocks:
            before = answers[-1] if answers else None
            frame_TD, token_MD, answer = block(frame_TD, token_MD, place_TD, self.query_MA, before)
            answers.append(answer)
        return answers


def load(plain: PlainFact, state: Mapping[str, Tensor]) -> None:
    """Gives `plain` the weights of a heads.fact.Fact: the same, in the layouts of torch's own modules."""

    def own(name: str, like: Tensor) -> Tensor:
        stem, _, last = name.rpartition(".")
        if last in ("in_proj_weight", "in_proj_bias"):
            return torch.cat([state[f"{stem}.{part}.{last[8:]}"] for part in ("query", "key", "value")])
        if last in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
            return state[f"{stem}.{dict(q='query', k='key', v='value')[last[0]]}.weight"]
        if f"{stem}.weight_KDE" in state:
            return state[f"{stem}.weight_KDE"].permute(2, 1, 0) if last == "weight" else state[f"{stem}.bias_E"]
        return state[name.replace("out_proj", "out")].reshape(like.shape)

    plain.load_state_dict({name: own(name, like) for name, like in plain.state_dict().items()})


def predict(answer: Answer, mwt: float) -> Tensor:
    """(T, C) probabilities from the last block."""
    frame_TC, token_MK = answer.frame_TC.softmax(1), answer.token_MK
    kept = (token_MK.argmax(1) != token_MK.shape[1] - 1).nonzero()[:, 0]
    if not len(kept):
        return frame_TC
    token_MC = token_MK[kept, :-1].softmax(1)
    return (1 - mwt) * token_MC[answer.a2f_TM[:, kept].argmax(1)] + mwt * frame_TC


# --- loss -------------------------------------------------------------------------------------------------------------


def loss_of(answers: Sequence[Answer], labels_T: Tensor, settings: Any) -> Tensor:
    """The loss of a video; settings are those of heads.fact's LossSettings, match o2o and background without weight."""
    runs = runs_of(labels_T)
    pairs = match(answers[-1], runs, settings.pc, settings.a2fc)
    classes = answers[0].frame_TC.shape[1]
    hot_TC = F.one_hot(labels_T, classes).to(answers[0].frame_TC)
    inside_TS = torch.zeros(len(labels_T), len(runs)).to(hot_TC)
    for s, (_, start, stop) in enumerate(runs):
        inside_TS[start:stop, s] = 1
    tokens = len(answers[0].token_MK)
    target_M = torch.full((tokens,), classes)
    weight_M = torch.full((tokens,), tokens / ((tokens - settings.avg_segments) * classes)).to(hot_TC)
    for token, s in pairs:
        target_M[token], weight_M[token] = runs[s][0], 1.0
    total = 0
    for answer in answers:
        frame = cross_entropy(answer.frame_TC, hot_TC)
        token = (F.cross_entropy(answer.token_MK, target_M, reduction="none") * weight_M).sum() / weight_M.sum()
        smooth, attention = roughness(answer.frame_TC), 0
        inside_PS = inside_TS
        if answer.segment_SC is not None:
            frame = (frame + cross_entropy(answer.segment_SC, pooled(hot_TC, answer.runs))) / 2
            inside_PS = pooled(inside_TS, answer.runs)
        if answer.f2a_MP is not None:
            matched = [token for token, _ in pairs]
            wanted_PM = inside_PS[:, [s for _, s in pairs]]
            f2a_MP = answer.f2a_MP[matched].log_softmax(1)
            a2f_PM = answer.a2f_PM[:, matched].log_softmax(1)
            attention = -((f2a_MP.t() + a2f_PM) * wanted_PM).sum() / inside_PS.sum()
            if answer.segment_SC is None:
                smooth = smooth + roughness(answer.f2a_MP.t()) + roughness(answer.a2f_PM)
        total = total + frame + token + attention + settings.sw * smooth
    return total / len(answers)


def decode(scores_TC: np.ndarray, switch: float) -> np.ndarray:
    """Viterbi with one cost for every change of class: a frame at a time, all classes of it at once."""
    changes_TC = np.empty(scores_TC.shape, bool)
    best_of_T = np.empty(len(scores_TC), np.int64)
    best_C = np.zeros(scores_TC.shape[1])
    for t, score_C in enumerate(scores_TC):
        best_of_T[t] = best_C.argmax()
        changed = best_C[best_of_T[t]] - switch
        np.less(best_C, changed, out=changes_TC[t])
        np.maximum(best_C, changed, out=best_C)
        best_C += score_C
    label, label_T = int(best_C.argmax()), np.empty(len(scores_TC), np.int64)
    for t in range(len(scores_TC) - 1, -1, -1):
        label_T[t] = label
        label = best_of_T[t] if changes_TC[t, label] else label
    return label_T


@torch.no_grad()
def match(answer: Answer, runs: list[Run], pc: float, a2fc: float) -> list[tuple[int, int]]:
    """(token, segment) pairs, one to one."""
    attention_TM, probability_MK = answer.a2f_TM.softmax(1), answer.token_MK.softmax(1)
    inside_TS = torch.zeros(len(attention_TM), len(runs)).to(attention_TM)
    for s, (_, start, stop) in enumerate(runs):
        inside_TS[start:stop, s] = 1
    overlap_MS = torch.minimum(attention_TM[:, :, None], inside_TS[:, None]).sum(0)
    union_MS = (attention_TM[:, :, None] + inside_TS[:, None]).clamp_max(1).sum(0)
    cost_MS = -pc * probability_MK[:, [label for label, _, _ in runs]] - a2fc * overlap_MS / union_MS
    return list(zip(*(side.tolist() for side in linear_sum_assignment(cost_MS.float().numpy())), strict=True))


def pooled(x_TD: Tensor, runs: list[Run]) -> Tensor:
    return torch.stack([x_TD[start:stop].mean(0) for _, start, stop in runs])


def cross_entropy(logits_PC: Tensor, target_PC: Tensor) -> Tensor:
    return -(logits_PC.log_softmax(1) * target_PC).sum() / target_PC.sum()


def roughness(logits_TC: Tensor) -> Tensor:
    return logits_TC.log_softmax(1).diff(dim=0).square().clamp_max(16).mean()

"""FACT as its definition says, for one video without padding: loops over frames, tokens, heads and segments.

Reads the weights of the modules under test; computes nothing with them. Eval mode, float64.
"""

import math
from itertools import groupby

import torch
from torch import Tensor, nn

SMALL = {
    "hid_dim": 16,
    "dropout": 0.0,
    "a_dim": 8,
    "a_ffdim": 12,
    "a_layers": 2,
    "a_nhead": 2,
    "f": "m",
    "f_dim": 6,
    "f_layers": 3,
    "f_ln": False,
    "s_layers": 1,
}
PAIRS = torch.tensor([[0, 1], [1, 0], [1, 2], [0, 2]])  # four classes of two verbs and three nouns


@torch.no_grad()
def stir(module: nn.Module, seed: int = 1) -> nn.Module:
    """Random values in every parameter, of a scale that keeps signals alive. Float64, in eval mode."""
    torch.manual_seed(seed)  # not whatever is left after the module has drawn how it starts
    module.double().eval()
    for name, parameter in module.named_parameters():
        random = torch.randn_like(parameter)
        rows = parameter.shape[-2] if name.endswith("KDE") else parameter.shape[-1]
        is_norm = parameter.ndim == 1 and name.endswith("weight")
        parameter.copy_(random * 1.5 / math.sqrt(rows) if parameter.ndim > 1 else is_norm + 0.1 * random)
    return module


def sinusoid(length: int, width: int) -> Tensor:
    code = torch.zeros(length, width, dtype=torch.float64)
    for t in range(length):
        for i in range(0, width, 2):
            code[t, i] = math.sin(t / 10_000 ** (i / width))
            code[t, i + 1] = math.cos(t / 10_000 ** (i / width))
    return code


def runs(labels: list[int]) -> list[range]:
    found, start = [], 0
    for _, group in groupby(labels):
        stop = start + len(list(group))
        found.append(range(start, stop))
        start = stop
    return found


def convolution(taps, x_TD: Tensor) -> Tensor:
    rows = []
    for t in range(len(x_TD)):
        row = taps.bias_E.clone()
        for k, offset in enumerate((-taps.dilation, 0, taps.dilation)):
            if 0 <= t + offset < len(x_TD):
                row = row + x_TD[t + offset] @ taps.weight_KDE[k]
        rows.append(row)
    return torch.stack(rows)


def frame_branch(branch, kind: str, x: Tensor) -> Tensor:
    x = branch.enter(x)
    for layer in branch.layers:
        if kind == "m":
            x = layer.norm(x + layer.mix(convolution(layer.taps, x).relu()))
        elif kind == "m2":
            x = x + layer.mix(torch.cat([convolution(layer.first, x), convolution(layer.second, x)], dim=1)).relu()
        else:
            x = layer.norm(x + convolution(layer.taps, x).relu())
    return branch.leave(x)


def softmax(logits: list[Tensor]) -> list[float]:
    logits = [float(x.detach()) for x in logits]
    weights = [math.exp(x - max(logits)) for x in logits]
    return [w / sum(weights) for w in weights]


def attention(module, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    q, k, v = module.query(queries), module.key(keys), module.value(values)
    size = q.shape[1] // module.heads
    rows = []
    for i in range(len(q)):
        row = []
        for head in range(module.heads):
            own = slice(head * size, (head + 1) * size)
            weights = softmax([q[i, own] @ k[j, own] / math.sqrt(size) for j in range(len(k))])
            row.append(sum(w * v[j, own] for j, w in enumerate(weights)))
        rows.append(torch.cat(row))
    return module.out(torch.stack(rows))


def mean_logits(module, queries: Tensor, keys: Tensor) -> Tensor:
    q, k = module.query(queries), module.key(keys)
    size = q.shape[1] // module.heads
    logits = torch.zeros(len(q), len(k), dtype=q.dtype)
    for i in range(len(q)):
        for j in range(len(k)):
            for head in range(module.heads):
                own = slice(head * size, (head + 1) * size)
                logits[i, j] += q[i, own] @ k[j, own] / math.sqrt(size) / module.heads
    return logits


def token_branch(branch, x: Tensor, place, memory=None, memory_place=0.0):
    """Tokens, and the last layer's mean logits over the memory."""
    logits = None
    for layer in branch.layers:
        x = layer.norms[0](x + attention(layer.own, x + place, x + place, x))
        if memory is not None:
            logits = mean_logits(layer.cross, x + place, memory + memory_place)
            x = layer.norms[1](x + attention(layer.cross, x + place, memory + memory_place, memory))
        x = layer.norms[-1](x + layer.back(layer.forth(x).relu()))
    return branch.leave(branch.norm(x)), logits


def cross_attention(module, y: Tensor, x: Tensor, y_place, x_place) -> tuple[Tensor, Tensor]:
    q, k, v = module.query(y + y_place), module.key(x + x_place), module.value(x)
    logits = torch.stack(
        [torch.stack([q[i] @ k[j] / math.sqrt(q.shape[1]) for j in range(len(k))]) for i in range(len(q))]
    )
    read = [sum(w * v[j] for j, w in enumerate(softmax(list(row)))) for row in logits]
    return module.out(module.dropout(torch.cat([y, torch.stack(read)], dim=1))), logits


def process(x: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Fed, features, logits."""
    features, logits = x[:, : x.shape[1] - sum(sizes)], x[:, x.shape[1] - sum(sizes) :]
    return torch.cat([features, *(part.softmax(1) for part in logits.split(sizes, dim=1))], dim=1), features, logits


def likeliest(logits_TC: Tensor, sizes: list[int], pairs) -> list[int]:
    if pairs is None:
        return [int(row.argmax()) for row in logits_TC]
    found = []
    for row in logits_TC:
        verb, noun = (part.log_softmax(0) for part in row.split(sizes))
        found.append(max(range(len(pairs)), key=lambda a: float(verb[pairs[a, 0]] + noun[pairs[a, 1]])))
    return found


@torch.no_grad()
def fact(model, kinds: list[tuple[str, str]], x_TD: Tensor, transcript: list[int] | None = None) -> list[dict]:
    """Each block's answers for one video; `kinds` are (kind, f) of each block."""
    pairs = model.pairs_A2
    sizes = [len(model.seen)] if pairs is None else list(model.n_parts)
    null_sizes = [size + 1 for size in sizes]
    width = model.hid_dim
    place = sinusoid(len(x_TD), width) if model.position is not None else torch.zeros(len(x_TD), width).double()
    if transcript is None:
        token_place = model.query_MA
        tokens = torch.zeros_like(token_place)
    else:
        words = [[a] if pairs is None else pairs[a].tolist() for a in transcript]
        tokens = torch.stack(
            [torch.cat([embed.weight[w] for embed, w in zip(model.embed, row, strict=True)]) for row in words]
        )
        tokens = tokens + sinusoid(len(tokens), tokens.shape[1])
        token_place = torch.zeros_like(tokens)
    wide_place = torch.cat([token_place, torch.zeros(len(token_place), width - token_place.shape[1]).double()], dim=1)

    outputs, frame, logits = [], None, None
    for block, (kind, f) in zip(model.blocks, kinds, strict=True):
        out = {}
        if kind in "iI":
            frame, out["frame_features"], logits = process(frame_branch(block.frames, f, x_TD), sizes)
        if kind in "IU":
            spans = runs(likeliest(logits, sizes, pairs))
            mean = torch.stack([torch.stack([frame[t] for t in span]).sum(0) / len(span) for span in spans])
            segment, _, out["segment_logits"] = process(block.segments.leave(block.segments.gru(mean)[0].relu()), sizes)
            segment_place = torch.stack([place[(span[0] + span[-1]) // 2] for span in spans])
            out["segment_of_frame"] = [s for s, span in enumerate(spans) for _ in span]
        x, x_place = (segment, segment_place) if kind in "IU" else (frame, place)
        if kind in "iI":
            tokens, f2a = token_branch(block.tokens, tokens, token_place, x, x_place)
            tokens, out["token_features"], out["token_logits"] = process(tokens, null_sizes)
            a2f = f2a.T
        else:
            tokens, f2a = cross_attention(block.f2a, tokens, x, wide_place, x_place)
            tokens, _ = token_branch(block.tokens, tokens, token_place)
            tokens, out["token_features"], out["token_logits"] = process(tokens, null_sizes)
            read, a2f = cross_attention(block.a2f, x, tokens, x_place, wide_place)
            if kind == "U":
                up = torch.stack([read[s] for s in out["segment_of_frame"]])
                read = block.merge(torch.cat([up, frame], dim=1)).relu()
            frame, out["frame_features"], logits = process(frame_branch(block.frames, f, read), sizes)
        out["frame_logits"] = logits
        if kind in "uU" or block is model.blocks[-1]:
            out["f2a"], out["a2f"] = f2a, a2f
        outputs.append(out)
    return outputs

"""FACT's matching and losses in loops, one video at a time and unpadded, and random videos to try them on."""

import itertools
import math
import random
from dataclasses import replace

import torch

from pipeline.heads.fact.classes import Classes
from pipeline.heads.fact.matching import IGNORE
from pipeline.heads.fact.outputs import BlockOutput

AXES = {
    "frame_logits_BTC": "TC",
    "token_logits_BMK": "MK",
    "frame_features_BTH": "TH",
    "token_features_BMH": "MH",
    "f2a_BMT": "MT",
    "a2f_BTM": "TM",
    "segment_logits_BSC": "PC",
    "f2a_BMS": "MP",
    "a2f_BSM": "PM",
}


def random_labels(frames, n_classes, hidden=0.0):
    """Runs of 1 to 4 frames, classes that repeat, a share of runs without a label."""
    labels = []
    while len(labels) < frames:
        label = IGNORE if random.random() < hidden else random.randrange(n_classes)
        labels += [label] * random.randint(1, 4)
    return labels[:frames]


def random_video(kind, frames, tokens, channels, extra=1, dtype=torch.float64):
    """One video's answers, without a batch axis, as a dict of leaves; kind is i, u or U. `extra` is how many nulls."""
    pooled = [run for run, n in enumerate(random.choices(range(1, 5), k=frames)) for _ in range(n)][:frames]
    sizes = {"T": frames, "M": tokens, "C": channels, "K": channels + extra, "H": 3, "P": pooled[-1] + 1}
    absent = {
        "i": {"f2a_BMT", "a2f_BTM", "segment_logits_BSC", "f2a_BMS", "a2f_BSM"},
        "u": {"segment_logits_BSC", "f2a_BMS", "a2f_BSM"},
        "U": {"f2a_BMT", "a2f_BTM"},
    }[kind]
    video = {
        name: (2 * torch.randn([sizes[a] for a in axes], dtype=dtype)).requires_grad_()
        for name, axes in AXES.items()
        if name not in absent
    }
    return video, (pooled if kind == "U" else None)


def padded(videos, classes=None, room=2):
    """A batch, padded beyond the longest: garbage in padded rows, -inf where the other end of attention is padding."""
    dicts, pools = zip(*videos, strict=True)
    size = {}
    for video in dicts:
        for name, leaf in video.items():
            for axis, n in zip(AXES[name], leaf.shape, strict=True):
                size[axis] = max(size.get(axis, 0), n)
    for axis in size.keys() & set("TPM"):
        size[axis] += room
    fields = {}
    for name in dicts[0]:
        rows, columns = AXES[name]
        batch = []
        for video in dicts:
            leaf = video[name]
            wide = torch.cat([leaf, leaf.new_full((len(leaf), size[columns] - leaf.shape[1]), -math.inf)], 1)
            below = torch.randn(size[rows] - len(leaf), size[columns], dtype=leaf.dtype)
            batch.append(torch.cat([wide, below]))
        fields[name] = torch.stack(batch)
    token_mask = torch.stack([torch.arange(size["M"]) < len(v["token_logits_BMK"]) for v in dicts])
    if pools[0] is not None:
        of_frame = torch.full((len(pools), size["T"]), -1)
        for b, pool in enumerate(pools):
            of_frame[b, : len(pool)] = torch.tensor(pool)
        mask = torch.stack([torch.arange(size["P"]) < len(v["segment_logits_BSC"]) for v in dicts])
        fields |= {"segment_of_frame_BT": of_frame, "segment_mask_BS": mask}
        fields["a2f_BTM"] = fields["a2f_BSM"].gather(
            1, of_frame.clamp_min(0).unsqueeze(2).expand(-1, -1, fields["a2f_BSM"].shape[2])
        )
    return BlockOutput(**fields, token_mask_BM=token_mask, classes=classes)


def padded_labels(labels, room=2):
    longest = max(map(len, labels)) + room
    label = torch.tensor([row + [random.randrange(3) for _ in range(longest - len(row))] for row in labels])
    return label, torch.tensor([[t < len(row) for t in range(longest)] for row in labels])


def mapped(output, change):
    """The same output, each of its tensors changed."""
    tensors = {name: change(value.detach()) for name, value in vars(output).items() if isinstance(value, torch.Tensor)}
    if (classes := output.classes) is not None:
        pairs = None if classes.pairs_A2 is None else change(classes.pairs_A2)
        tensors["classes"] = replace(classes, seen_A=change(classes.seen_A), pairs_A2=pairs)
    return replace(output, **tensors)


def runs(labels):
    """(label, start, stop) of each run, without IGNORE."""
    found, t = [], 0
    for label, run in itertools.groupby(labels):
        n = len(list(run))
        if label != IGNORE:
            found.append((label, t, t + n))
        t += n
    return found


def log_softmax(row, keep):
    """{index: log-probability} of a row among the indices kept."""
    total = sum(row[k].exp() for k in keep)
    return {k: row[k] - total.log() for k in keep}


def parts_of(classes, n_channels):
    """(first frame channel, first token channel, size, channel of class, seen channels) of each softmax."""
    if classes is None or classes.pairs_A2 is None:
        seen = range(n_channels) if classes is None else [c for c in range(n_channels) if classes.seen_A[c]]
        return [(0, 0, n_channels, list(range(n_channels)), list(seen))]
    found = []
    for part, size in enumerate((classes.n_verbs, n_channels - classes.n_verbs)):
        channel = classes.pairs_A2[:, part].tolist()
        seen = sorted({channel[a] for a in range(len(channel)) if classes.seen_A[a]})
        first = part * classes.n_verbs
        found.append((first, first + part, size, channel, seen))
    return found


def attention(video, pooled):
    """Attention logits of frames over tokens."""
    if pooled is None:
        return video["a2f_BTM"]
    return torch.stack([video["a2f_BSM"][p] for p in pooled])


def cost(video, pooled, labels, classes, pc, a2fc):
    """cost[token][segment], by the definition."""
    att = attention(video, pooled).softmax(1)
    frames, tokens = att.shape
    table = []
    for m in range(tokens):
        row = []
        for label, start, stop in runs(labels):
            p = 1.0
            for _, first, size, channel, seen in parts_of(classes, video["frame_logits_BTC"].shape[1]):
                logp = log_softmax(video["token_logits_BMK"][m, first : first + size + 1], [*seen, size])
                p *= logp[channel[label]].exp().item()
            inside = [start <= t < stop for t in range(frames)]
            overlap = sum(att[t, m].item() * inside[t] for t in range(frames))
            union = sum(min(att[t, m].item() + inside[t], 1.0) for t in range(frames))
            row.append(-pc * p - a2fc * overlap / union)
        table.append(row)
    return table


def cheapest(table, rows, columns):
    """The assignment of least total among all there are: {column: row}."""
    best, found = math.inf, {}
    few, many = (columns, rows) if columns <= rows else (rows, columns)
    for order in itertools.permutations(range(many), few):
        pairs = [(order[k], k) if columns <= rows else (k, order[k]) for k in range(few)]
        total = sum(table[r][c] for r, c in pairs)
        if total < best:
            best, found = total, {c: r for r, c in pairs}
    return found


def one_to_one(table, tokens, segments):
    found = cheapest(table, tokens, segments)
    return [found.get(s, -1) for s in range(segments)]


def one_to_many(table, tokens, labels):
    classes = sorted(set(labels))
    if not classes:
        return []
    summed = [[sum(table[m][s] for s, y in enumerate(labels) if y == c) for c in classes] for m in range(tokens)]
    of_class = {m: c for c, m in cheapest(summed, tokens, len(classes)).items()}
    for m in range(tokens):
        if m not in of_class:
            of_class[m] = min(range(len(classes)), key=lambda c: summed[m][c])
    found = []
    for s, label in enumerate(labels):
        mine = [m for m in range(tokens) if classes[of_class[m]] == label]
        found.append(min(mine, key=lambda m: table[m][s]) if mine else -1)
    return found


def null_tokens(video, pooled, labels, token_of_segment):
    """Tokens without a segment that get no more attention from hidden frames than from the others."""
    found = [m for m in range(len(video["token_logits_BMK"])) if m not in token_of_segment]
    if pooled is None and "a2f_BTM" not in video:
        return found
    att = attention(video, pooled).softmax(1)
    hidden = [sum(att[t, m].item() for t, y in enumerate(labels) if y == IGNORE) for m in range(att.shape[1])]
    shown = [sum(att[t, m].item() for t, y in enumerate(labels) if y != IGNORE) for m in range(att.shape[1])]
    return [m for m in found if not hidden[m] > shown[m]]


def block_terms(video, pooled, labels, token_of_segment, nulls, settings, classes):
    """The terms of one block for one video."""
    zero = video["frame_logits_BTC"].sum() * 0
    parts = parts_of(classes, video["frame_logits_BTC"].shape[1])
    weight = {y: settings.bgw if y in settings.background else 1.0 for y in set(labels)}
    labelled = [t for t, y in enumerate(labels) if y != IGNORE]
    segments = runs(labels)
    tokens = len(video["token_logits_BMK"])
    terms = dict.fromkeys(("frame", "token", "f2a", "a2f", "smooth"), zero)

    def rough(logps):
        """`logps`: {index: log-probability} of each row."""
        total = [
            min((logps[t][k] - logps[t - 1][k]) ** 2, torch.tensor(16.0))
            for t in range(1, len(logps))
            if t in labelled and t - 1 in labelled
            for k in logps[t]
        ]
        return sum(total) / len(total) if total else zero

    def action_logp(row):
        """Of each seen class: the sum over its softmaxes, of one class alone or of verb and noun."""
        each = [(log_softmax(row[first : first + size], seen), channel) for first, _, size, channel, seen in parts]
        shown = range(len(each[0][1])) if classes is None else classes.seen_A.nonzero().flatten().tolist()
        return {a: sum(logp[channel[a]] for logp, channel in each) for a in shown}

    def pooled_share(p, inside):
        members = [t for t in range(len(labels)) if pooled[t] == p]
        return sum(t in inside for t in members) / len(members)

    for first, first_token, size, channel, seen in parts:
        frame = zero
        for t in labelled:
            logp = log_softmax(video["frame_logits_BTC"][t, first : first + size], seen)
            frame = frame - weight[labels[t]] * logp[channel[labels[t]]] / len(labelled)
        if pooled is not None:
            segment, total = zero, 0
            for p in range(pooled[-1] + 1):
                logp = log_softmax(video["segment_logits_BSC"][p, first : first + size], seen)
                for y in {labels[t] for t in labelled}:
                    share = pooled_share(p, {t for t in labelled if labels[t] == y})
                    segment = segment - weight[y] * share * logp[channel[y]]
                    total += share
            frame = (frame + segment / max(total, 1e-9)) / 2
        token, total = zero, 0
        for m in range(tokens):
            logp = log_softmax(video["token_logits_BMK"][m, first_token : first_token + size + 1], [*seen, size])
            if m in token_of_segment:
                y = segments[token_of_segment.index(m)][0]
                w, target = weight[y], channel[y]
            elif m in nulls:
                w, target = settings.nullw, size
            else:
                continue
            # Of verbs and nouns the plain mean over tokens; else the weighted one.
            token, total = token - w * logp[target], total + (w if len(parts) == 1 else 1)
        terms["frame"] = terms["frame"] + frame / len(parts)
        terms["token"] = terms["token"] + token / max(total, 1e-9) / len(parts)
    terms["smooth"] = terms["smooth"] + rough([action_logp(row) for row in video["frame_logits_BTC"]])
    matched = sorted(set(token_of_segment) - {-1})
    if pooled is None and "f2a_BMT" in video:
        for t in labelled:
            s = next(i for i, (_, start, stop) in enumerate(segments) if start <= t < stop)
            m = token_of_segment[s]
            if m != -1:
                w = weight[labels[t]] / len(labelled)
                terms["f2a"] = terms["f2a"] - w * log_softmax(video["f2a_BMT"][m], labelled)[t]
                terms["a2f"] = terms["a2f"] - w * log_softmax(video["a2f_BTM"][t], matched)[m]
        for logits in (video["f2a_BMT"].T, video["a2f_BTM"]):
            terms["smooth"] = terms["smooth"] + rough([log_softmax(row, list(range(tokens))) for row in logits])
    if pooled is not None:
        kept = sorted({pooled[t] for t in labelled})
        total = sum(pooled_share(p, set(labelled)) for p in kept)
        for p in kept:
            for s, (y, start, stop) in enumerate(segments):
                m, share = token_of_segment[s], pooled_share(p, set(range(start, stop)))
                if m != -1 and share:
                    w = weight[y] * share / total
                    terms["f2a"] = terms["f2a"] - w * log_softmax(video["f2a_BMS"][m], kept)[p]
                    terms["a2f"] = terms["a2f"] - w * log_softmax(video["a2f_BSM"][p], matched)[m]
    return terms


def of_video(blocks_videos, labels, token_of_segment, nulls, settings, classes):
    """The terms of all blocks for one video, and their sum under "loss"."""
    total = {}
    for video, pooled in blocks_videos:
        for name, value in block_terms(video, pooled, labels, token_of_segment, nulls, settings, classes).items():
            total[name] = total.get(name, 0) + value / len(blocks_videos)
    total["loss"] = sum(total[n] for n in ("frame", "token", "f2a", "a2f")) + settings.sw * total["smooth"]
    return total


def verbs_and_nouns(seen=None):
    """7 of the pairs of 3 verbs and 4 nouns."""
    pairs = torch.tensor([[0, 0], [0, 1], [1, 1], [1, 3], [2, 0], [2, 2], [0, 3]])
    seen = torch.ones(7, dtype=torch.bool) if seen is None else seen
    return Classes(seen_A=seen, n_verbs=3, n_nouns=4, pairs_A2=pairs)

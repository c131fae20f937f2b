"""A GRU in both directions over ragged sequences, exact under padding. Knows no block; its weights are an nn.GRU's.

Accelerators run the library's. On the CPU the library takes the directions in turn and adds up the gradient of the
weights step by step, a rank-one update of 256 x 768 each time; here both directions share a product and the gradient
of the weights is one GEMM at the end: forward and backward 434 -> 212 us a step (H = 256, D = 512, one thread).

Shape suffixes: S steps, R the two directions, B sequences, D input width, H width of a direction, G = 3 H gates in the
library's order: reset r, update z, new n.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def bidirectional(gru: nn.GRU, x_BSD: Tensor, count_B: Tensor) -> Tensor:
    """What `gru` gives for each sequence alone.

    Args:
        gru: bidirectional, with biases, batch_first.
        x_BSD: sequences; rows from a sequence's count on are padding.
        count_B: int64 on the CPU, at least 1 each.

    Returns:
        (B, S, 2 H) in the type of the weights; padded rows are finite and mean nothing.
    """
    x_BSD = x_BSD.to(gru.weight_hh_l0.dtype)
    if x_BSD.device.type == "cpu":
        return _both_ways(gru, x_BSD.transpose(0, 1), count_B).transpose(0, 1)
    if bool((count_B == x_BSD.shape[1]).all()):
        return gru(x_BSD)[0]
    packed = nn.utils.rnn.pack_padded_sequence(x_BSD, count_B, batch_first=True, enforce_sorted=False)
    return nn.utils.rnn.pad_packed_sequence(gru(packed)[0], batch_first=True, total_length=x_BSD.shape[1])[0]


def _both_ways(gru: nn.GRU, x_SBD: Tensor, count_B: Tensor) -> Tensor:
    """(S, B, 2 H). The way back starts at each sequence's own last step, so padding comes last both ways."""
    steps, sequences, _ = x_SBD.shape
    step_S1 = torch.arange(steps).unsqueeze(1)
    turned_SB = torch.where(step_S1 < count_B, count_B - 1 - step_S1, step_S1)
    row_N = (turned_SB * sequences + torch.arange(sequences)).flatten()

    def turn(y_SBD: Tensor) -> Tensor:
        return y_SBD.flatten(0, 1).index_select(0, row_N).unflatten(0, (steps, sequences))

    for layer in range(gru.num_layers):
        names = f"l{layer}", f"l{layer}_reverse"
        weights = [[getattr(gru, f"{kind}_{name}") for name in names] for kind in ("weight_ih", "bias_ih")]
        ways = (x_SBD, turn(x_SBD))
        gates = [F.linear(x, w, b).to(w.dtype) for x, w, b in zip(ways, *weights, strict=True)]
        weight_RHG = torch.stack([getattr(gru, f"weight_hh_{name}").t() for name in names])
        bias_R1G = torch.stack([getattr(gru, f"bias_hh_{name}") for name in names]).unsqueeze(1)
        h_SRBH = _Recurrence.apply(torch.stack(gates, dim=1), weight_RHG, bias_R1G)
        x_SBD = torch.cat([h_SRBH[:, 0], turn(h_SRBH[:, 1])], dim=-1)
    return x_SBD


class _Recurrence(torch.autograd.Function):
    """h[s] = (1 - z) n + z h[s - 1], with r, z = sigmoid(gates + h W + b) and n = tanh(gate + r (h W + b))."""

    @staticmethod
    def forward(ctx, gates_SRBG: Tensor, weight_RHG: Tensor, bias_R1G: Tensor) -> Tensor:
        steps, width = len(gates_SRBG), weight_RHG.shape[1]
        shape = (*gates_SRBG.shape[1:3], width)
        kept = steps if any(ctx.needs_input_grad) else 1

        def room(widths: int) -> Tensor:
            """A row a step, or without gradients one row for all."""
            return gates_SRBG.new_empty(kept, *shape[:2], widths * width).expand(steps, -1, -1, -1)

        both, new, read, out = room(2), room(1), room(1), gates_SRBG.new_empty(steps, *shape)
        reset, update = both.split(width, dim=-1)
        weight_RHG = weight_RHG.contiguous()
        bias_both, bias_new = bias_R1G[..., : 2 * width], bias_R1G[..., 2 * width :]
        product = gates_SRBG.new_empty(*shape[:2], 3 * width)
        product_both, product_new = product[..., : 2 * width], product[..., 2 * width :]
        gates = gates_SRBG[..., : 2 * width] + bias_both, gates_SRBG[..., 2 * width :]
        h = gates_SRBG.new_zeros(shape)
        rows = zip(*(x.unbind(0) for x in (*gates, both, reset, update, new, read, out)), strict=True)
        for gate_both, gate_new, rz, r, z, n, a, h_next in rows:
            torch.bmm(h, weight_RHG, out=product)
            torch.add(gate_both, product_both, out=rz).sigmoid_()
            torch.add(product_new, bias_new, out=a)
            torch.addcmul(gate_new, r, a, out=n).tanh_()
            torch.lerp(n, h, z, out=h_next)
            h = h_next
        ctx.save_for_backward(weight_RHG, reset, update, new, read, out)
        return out

    @staticmethod
    def backward(ctx, grad_SRBH: Tensor):
        weight_RHG, reset, update, new, read, out = ctx.saved_tensors
        before = torch.cat([torch.zeros_like(out[:1]), out[:-1]])
        # What one unit of gradient of h is to the update gate and to n before its tanh, and that to the reset gate.
        to_update = (before - new) * update * (1 - update)
        to_new = (1 - update) * (1 - new * new)
        to_reset = read * reset * (1 - reset)
        steps, directions, sequences, width = out.shape
        grad_product = out.new_empty(steps, directions, sequences, 3 * width)
        grad_new = torch.empty_like(out)
        into_reset, into_update, into_read = grad_product.split(width, dim=-1)
        back_RGH = weight_RHG.transpose(1, 2).contiguous()
        carried = torch.zeros_like(out[0])
        rows = [grad_SRBH, reset, update, to_update, to_new, to_reset, grad_product, into_reset, into_update]
        rows = zip(*(reversed(x.unbind(0)) for x in (*rows, into_read, grad_new)), strict=True)
        for grad, r, z, by_z, by_n, by_r, whole, in_r, in_z, in_a, in_n in rows:
            d = carried.add_(grad)
            torch.mul(d, by_z, out=in_z)
            torch.mul(d, by_n, out=in_n)
            torch.mul(in_n, by_r, out=in_r)
            torch.mul(in_n, r, out=in_a)
            carried = torch.bmm(whole, back_RGH).addcmul_(d, z)
        before_RNH, product_RNG = (x.transpose(0, 1).flatten(1, 2) for x in (before, grad_product))
        grad_gates = torch.cat([grad_product[..., : 2 * width], grad_new], dim=-1)
        return grad_gates, before_RNH.transpose(1, 2) @ product_RNG, grad_product.sum((0, 2)).unsqueeze(1)

"""What each encoder sees of time and place."""

import pytest
import torch

from pipeline.heads.clip_align.encoders import ENCODERS, MapEncoder, Projection, Readout, TokenEncoder

GRID = (6, 5, 4)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "reach"), [("3dcnn", 2), ("2dcnn", 0), ("cnn_lstm", 0)])
def test_two_convolutions_reach_two_steps_with_3dcnn_and_none_with_the_others(kind, reach):
    encoder = TokenEncoder(kind, 7, 16).double()
    conv_only = torch.nn.Sequential(*(layer for layer in encoder.convs if isinstance(layer, torch.nn.Conv3d)))
    encoder.convs = conv_only  # a norm over the video would carry a little of everything everywhere
    tokens = torch.randn(1, *GRID, 7, dtype=torch.float64)
    changed = tokens.clone()
    changed[:, 0, 0, 0] += 1
    moved = (encoder(changed) - encoder(tokens)).abs().amax((0, 4)) > 1e-12
    assert moved.any((1, 2)).nonzero().flatten().tolist() == list(range(reach + 1))
    assert moved[0].any(1).nonzero().max() == 2 and moved[0].any(0).nonzero().max() == 2


@torch.no_grad()
def test_reducing_is_a_convolution_of_one_cell():
    encoder = TokenEncoder("3dcnn", 7, 16)
    tokens = torch.randn(2, *GRID, 7)
    conv = torch.nn.functional.conv3d(
        tokens.movedim(-1, 1), encoder.reduce.weight[:, :, None, None, None], encoder.reduce.bias
    )
    torch.testing.assert_close(encoder.reduce(tokens).movedim(-1, 1), conv)


@torch.no_grad()
@pytest.mark.parametrize("kind", ENCODERS)
def test_only_the_lstm_reads_the_order_of_steps_when_it_pools(kind):
    readout = Readout(kind, 8, 6)
    tokens, weight = torch.randn(2, *GRID, 8), torch.rand(2, *GRID)
    same = torch.allclose(readout(tokens, weight), readout(tokens.flip(1), weight.flip(1)), atol=1e-5)
    assert same == (kind != "cnn_lstm")


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 8, 14, 14), (2, 3, 4, 8), (3, 1, 2, 2)])
def test_the_map_encoder_tells_where_a_spot_is_and_reads_every_channel(shape):
    encoder = MapEncoder(shape, 8, 12)
    spots = torch.zeros(2, *shape)
    spots[0, 0, 0, 0, 0] = spots[1, -1, -1, -1, -1] = 1
    features = encoder(spots)
    assert features.shape == (2, 12)
    assert (features[0] - features[1]).abs().max() > 1e-3


def test_projections_end_at_unit_length():
    embed = Projection(6, 5, 0.5)(torch.randn(3, 6))
    torch.testing.assert_close(embed.norm(dim=1), torch.ones(3))

from __future__ import annotations

import torch
from torch.nn import functional as F

from fourm.layouts import Grid
from fourm.tokenizers.mlp import Decoder, Encoder
from fourm.tokenizers.network_configs import MLPConfig

CONFIG = MLPConfig(width=6, depth=2, mlp_ratio=3.0)
PLACE = Grid(1, 1)


def test_shapes():
    encoder, decoder = Encoder(CONFIG, 10, PLACE), Decoder(CONFIG, 10, PLACE)
    hidden = encoder(torch.randn(2, 10, 1, 1))
    assert hidden.shape == (2, encoder.out_dim, 1, 1) == (2, decoder.in_dim, 1, 1)
    assert decoder(hidden).shape == (2, 10, 1, 1)


def test_blocks_add_a_two_layer_network_of_the_normalised_input():
    """x <- x + W2 gelu(W1 layernorm(x) + b1) + b2, between two linear layers (4M-21's bottleneck MLP)."""
    torch.manual_seed(0)
    encoder = Encoder(CONFIG, 4, PLACE)
    weights = encoder.state_dict()
    x = torch.randn(3, 4)
    h = F.linear(x, weights["linear_in.weight"], weights["linear_in.bias"])
    for n in range(2):
        w = {name.removeprefix(f"blocks.{n}."): value for name, value in weights.items()}
        normed = (h - h.mean(1, keepdim=True)) / (h.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        inner = F.gelu(F.linear(normed * w["norm.weight"] + w["norm.bias"], w["fc1.weight"], w["fc1.bias"]))
        assert inner.shape[1] == 18
        h = h + F.linear(inner, w["fc2.weight"], w["fc2.bias"])
    expected = F.linear(h, weights["linear_out.weight"], weights["linear_out.bias"])
    torch.testing.assert_close(encoder(x[..., None, None])[..., 0, 0], expected)


def test_places_do_not_look_at_each_other():
    torch.manual_seed(0)
    encoder = Encoder(CONFIG, 4, Grid(2, 3))
    x = torch.randn(1, 4, 2, 3)
    torch.testing.assert_close(encoder(x)[..., 1:, 2:], encoder(x[..., 1:, 2:]))

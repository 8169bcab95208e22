"""Counted multiply-accumulates against formulas and against published figures."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stages.ops import torchvision_compat  # noqa: F401 - timm needs it
from stages.ops.counting import count_compute, num_nonzero_parameters, num_parameters

timm = pytest.importorskip("timm")


class Attention(nn.Module):
    """A convolution, a linear layer and fused attention over 16 tokens of width 8."""

    def __init__(self):
        super().__init__()
        self.stem, self.qkv = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 24)

    def forward(self, images):
        tokens = self.stem(images).flatten(2).transpose(1, 2)
        query, key, value = (part.unsqueeze(1) for part in self.qkv(tokens).chunk(3, dim=-1))
        return nn.functional.scaled_dot_product_attention(query, key, value)


def test_the_count_equals_the_formula():
    count = count_compute(Attention(), torch.zeros(1, 3, 4, 4))
    assert count.macs_by_layer == {"stem": 16 * 8 * 27, "qkv": 16 * 8 * 24}
    assert count.macs == 16 * 8 * 27 + 16 * 8 * 24 + 2 * 16 * 16 * 8
    assert count.macs_nonzero == count.macs


def test_zero_weights_lower_the_non_zero_count_only():
    model = Attention()
    with torch.no_grad():
        model.qkv.weight[:12] = 0
    count = count_compute(model, torch.zeros(1, 3, 4, 4))
    assert count.macs - count.macs_nonzero == 16 * 8 * 12
    assert num_parameters(model) - num_nonzero_parameters(model) == 12 * 8


def test_a_layer_used_twice_is_counted_twice():
    layer = nn.Linear(4, 4)
    count = count_compute(nn.Sequential(layer, layer), torch.zeros(1, 4))
    assert count.macs == 32
    assert count.macs_by_layer == {"0": 32}


def test_counting_leaves_no_hook_behind():
    model = Attention()
    count_compute(model, torch.zeros(1, 3, 4, 4))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("name", "gmacs", "size"),
    [("deit_small_patch16_224", 4.599, 224), ("deit_base_patch16_224", 17.564, 224), ("resnet18", 1.82, 224)],
)
def test_counts_agree_with_published_ones(name, gmacs, size):
    """Published "FLOPs": DeiT-S 4.6 G and DeiT-B 17.6 G (arXiv 2012.12877), ResNet-18 1.8 G (arXiv 1512.03385)."""
    with torch.device("meta"):
        model = timm.create_model(name).eval()
        count = count_compute(model, torch.zeros(1, 3, size, size))
    assert count.macs / 1e9 == pytest.approx(gmacs, rel=0.01)


def test_the_micro_vision_transformer_costs_what_was_measured_elsewhere():
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=64, depth=4, num_heads=4, mlp_ratio=2
    ).eval()
    assert num_parameters(model) == 136_138
    assert count_compute(model, torch.zeros(1, 1, 8, 8)).macs / 1e6 == pytest.approx(2.381, rel=0.01)

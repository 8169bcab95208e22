"""The mask transform: round trip, folding, and a pattern that no fine-tuning can break."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stages.models.bundle import ModelBundle, build_bundle, fold_bundle, load_bundle, save_bundle
from stages.models.nm_mask import TRANSFORM, apply_masks, masked_layers, nm_summary
from stages.models.zoo import find_architecture
from stages.ops.input_spec import InputSpec
from stages.ops.nm import magnitude_mask
from stages.ops.pattern import NMPattern

PATTERN = NMPattern(2, 4)
DIGITS = InputSpec(channels=1, height=8, width=8, mean=(0.3,), std=(0.4,))


def bundle_of(name: str) -> ModelBundle:
    names = tuple(str(digit) for digit in range(10))
    return build_bundle(find_architecture(name, {}, input_spec=DIGITS, class_names=names), seed=0)


def masked_bundle(name: str) -> ModelBundle:
    bundle = bundle_of(name)
    layers = ("blocks.0.attn.qkv", "blocks.3.mlp.fc2") if name == "vit_micro" else ("blocks.1.0", "blocks.2.0")
    masks = {layer: magnitude_mask(bundle.model.get_submodule(layer).weight, pattern=PATTERN) for layer in layers}
    return apply_masks(bundle, masks, pattern=PATTERN)


@pytest.mark.parametrize("name", ["vit_micro", "cnn_micro"])
def test_a_masked_model_survives_saving_and_loading(name, tmp_path):
    bundle = masked_bundle(name)
    save_bundle(bundle, tmp_path)
    loaded = load_bundle(tmp_path)
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(bundle.model.eval()(images), loaded.model(images))
    for layer, fixed in masked_layers(loaded.model).items():
        assert torch.equal(fixed.mask, masked_layers(bundle.model)[layer].mask)


@pytest.mark.parametrize("name", ["vit_micro", "cnn_micro"])
def test_folding_gives_a_plain_model_with_the_same_outputs(name):
    """Exports run on the folded model; a mask left behind would cost bytes and time."""
    bundle = masked_bundle(name)
    plain = fold_bundle(bundle)
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(bundle.model.eval()(images), plain(images))
    assert plain.state_dict().keys() == bundle_of(name).model.state_dict().keys()
    assert masked_layers(bundle.model)
    assert not masked_layers(plain)
    assert {type(module) for module in plain.modules()} == {type(module) for module in bundle_of(name).model.modules()}


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9, weight_decay=0.1)])
def test_fine_tuning_leaves_masked_weights_exactly_zero(optimizer):
    bundle = masked_bundle("vit_micro")
    masks = {name: fixed.mask.clone() for name, fixed in masked_layers(bundle.model).items()}
    steps = optimizer(bundle.model.parameters(), lr=0.01)
    for _ in range(5):
        steps.zero_grad()
        bundle.model(torch.randn(4, 1, 8, 8)).square().mean().backward()
        steps.step()
    plain = fold_bundle(bundle)
    for name, mask in masks.items():
        weight = plain.get_submodule(name).weight
        assert not bool(weight[~mask].any())
        assert bool(weight[mask].all())
        original = bundle.model.get_submodule(name).parametrizations.weight.original
        assert not bool(original[~mask].any())


def test_a_weight_that_another_parametrization_changes_too_keeps_it_when_masks_are_folded():
    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    bundle = masked_bundle("vit_micro")
    layer = bundle.model.get_submodule("blocks.0.attn.qkv")
    nn.utils.parametrize.register_parametrization(layer, "weight", Double())
    before = layer.weight.detach().clone()
    TRANSFORM.fold(bundle.model)
    assert torch.equal(layer.weight, before)
    assert not masked_layers(bundle.model)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"nowhere": "2:4"}, "nowhere: found no such layer"),
        ({"norm": "2:4"}, "LayerNorm"),
        ({"blocks.0.attn.qkv": "1:7"}, "I = 64"),
    ],
)
def test_a_layer_that_cannot_be_masked_is_refused_by_name(layers, message):
    with pytest.raises(ValueError, match=message):
        TRANSFORM.attach(bundle_of("vit_micro").model, {"layers": layers})


def test_a_model_without_masked_layers_does_not_count_as_valid():
    assert nm_summary({}) == {"num_nm_blocks": 0, "num_violating_blocks": 0, "nm_valid": False}

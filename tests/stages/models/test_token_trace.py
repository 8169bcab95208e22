"""Where patches end up: the trace agrees with the tokens that the model really hands on."""

from __future__ import annotations

import base64
import json
from itertools import pairwise

import pytest
import torch

import stages.ops.torchvision_compat  # noqa: F401 - timm does not import without it

# isort: split
from timm.models.vision_transformer import VisionTransformer

from stages.models.token_reduction import BipartiteReduction, RankedReduction, kept_tokens, reduce_blocks
from stages.models.token_trace import PRUNED, save_trace, trace_patches
from stages.ops.input_spec import InputSpec


def network(reductions) -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=16, depth=3, num_heads=2)
    reduce_blocks(model, reductions)
    return model.eval()


RANKED = (RankedReduction(17, 17), RankedReduction(12, 9), RankedReduction(9, 5))
MERGING = (BipartiteReduction(4), BipartiteReduction(0), BipartiteReduction(5))
PRUNING = (RankedReduction(10, 17), RankedReduction(17, 17), RankedReduction(4, 17))


@pytest.mark.parametrize("reductions", [RANKED, MERGING, PRUNING], ids=["ranked", "merging", "pruning"])
def test_as_many_tokens_are_traced_as_the_model_keeps(reductions):
    model = network(reductions)
    places = trace_patches(model, torch.randn(3, 1, 8, 8))
    assert places.shape == (3, 3, 16)
    for image in places:
        found = [len(set(block[block != PRUNED].tolist())) + 1 for block in image]
        assert found == list(kept_tokens(model))


def test_what_is_pruned_stays_pruned_and_what_is_merged_stays_together():
    for image in trace_patches(network(RANKED), torch.randn(4, 1, 8, 8)):
        for before, after in pairwise(image):
            assert bool((after[before == PRUNED] == PRUNED).all())
            for token in set(before[before != PRUNED].tolist()):
                assert len(set(after[before == token].tolist())) == 1


def test_only_pruning_loses_patches():
    assert bool((trace_patches(network(MERGING), torch.randn(2, 1, 8, 8)) != PRUNED).all())
    assert int((trace_patches(network(PRUNING), torch.randn(1, 1, 8, 8))[0, -1] == PRUNED).sum()) == 16 - 3


def test_the_trace_changes_nothing_in_the_model():
    model, images = network(RANKED), torch.randn(2, 1, 8, 8)
    before = model(images)
    trace_patches(model, images)
    assert torch.equal(model(images), before)
    assert not any(block.reduction._forward_pre_hooks for block in model.blocks)


def test_the_kept_image_is_small_and_has_its_own_colours(tmp_path):
    model = VisionTransformer(img_size=256, patch_size=64, in_chans=3, num_classes=10, embed_dim=16, depth=1, num_heads=2)
    reduce_blocks(model, [RankedReduction(8, 8)])
    spec = InputSpec(channels=3, height=256, width=256, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    images = torch.full((1, 3, 256, 256), 2.0)
    images[:, 1:] = -2.0
    save_trace(model.eval(), images, [1], input_spec=spec, class_names=["cat", "dog"], folder=tmp_path)
    content = json.loads((tmp_path / "tokens.json").read_text())
    (drawn,) = content["images"]
    assert content["grid"] == [4, 4]
    assert drawn["class"] == "dog"
    assert drawn["shape"] == [64, 64, 3]
    assert base64.b64decode(drawn["pixels"])[:3] == bytes([255, 0, 0])
    assert len(drawn["blocks"][0]) == 16

"""Sizes and nominal compute of bundles against figures known from elsewhere."""

from __future__ import annotations

import pytest

from stages.models.layer_table import layer_rows
from stages.models.measures import METRICS, measure_model
from stages.models.nm_mask import apply_masks
from stages.models.token_reduction import apply_schedule
from stages.ops.nm import magnitude_mask
from stages.ops.pattern import NMPattern
from stages.ops.token_budget import TokenSchedule
from tests.stages.models.test_nm_mask import bundle_of

BODY = [f"blocks.{block}.{layer}" for block in range(4) for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]


@pytest.mark.parametrize(("name", "parameters", "mmacs"), [("vit_micro", 136_138, 2.381), ("cnn_micro", 28_490, 1.125)])
def test_micro_models_have_the_known_size(name, parameters, mmacs):
    measured = measure_model(bundle_of(name))
    assert tuple(measured) == METRICS
    assert measured["num_parameters"] == parameters
    assert measured["gmacs"] * 1000 == pytest.approx(mmacs, rel=0.01)
    assert measured["bops"] == pytest.approx(measured["gmacs"] * 1e9 * 1024)


@pytest.mark.parametrize(
    ("pattern", "nonzero"), [(NMPattern(2, 4), 70_602), (NMPattern(1, 4), 37_834), (NMPattern(1, 16), 13_258)]
)
def test_masks_lower_the_non_zero_counts_and_leave_the_dense_ones(pattern, nonzero):
    """The numbers of non-zeros are those that other tools reach on the same layers, all biases and norms counted."""
    bundle = bundle_of("vit_micro")
    for parameter in bundle.model.parameters():
        parameter.data.fill_(0.5)  # initial biases are 0 and would be counted as removed
    dense = measure_model(bundle)
    masks = {name: magnitude_mask(bundle.model.get_submodule(name).weight, pattern=pattern) for name in BODY}
    sparse = measure_model(apply_masks(bundle, masks, pattern=pattern))
    assert sparse["num_nonzero_parameters"] == nonzero
    assert sparse["num_parameters"] == dense["num_parameters"]
    assert sparse["gmacs"] == dense["gmacs"]
    body_macs = 17 * 4 * (3 * 64 * 64 + 64 * 64 + 2 * 64 * 128)
    assert sparse["gmacs_effective"] * 1e9 == pytest.approx(dense["gmacs"] * 1e9 - (1 - pattern.density) * body_macs)


def test_matching_tokens_is_counted_apart_and_said():
    """It runs, and `gmacs` leaves it out: a reader must see what is missing."""
    bundle = bundle_of("vit_micro")
    assert "gmacs_matching" not in measure_model(bundle)
    kept, merged = (15, 13, 11, 9), (14, 12, 10, 8)
    reduced = measure_model(apply_schedule(bundle, TokenSchedule(prune=kept, merge=merged)))
    assert 0 < reduced["gmacs_matching"] < 0.1 * reduced["gmacs"]


def test_rows_of_layers_add_up_to_what_is_counted_of_the_model():
    bundle = bundle_of("vit_micro")
    masks = {name: magnitude_mask(bundle.model.get_submodule(name).weight, pattern=NMPattern(1, 4)) for name in BODY}
    sparse = apply_masks(bundle, masks, pattern=NMPattern(1, 4))
    rows = {row["name"]: row for row in layer_rows(sparse)}
    assert set(BODY) < set(rows)
    assert {row["weight_bits"] for row in rows.values()} == {32}
    assert all(rows[name]["num_nonzero"] == rows[name]["num_weights"] / 4 for name in BODY)
    assert all(rows[name]["num_weights"] * 17 == rows[name]["macs"] for name in BODY)

"""Fifty steps of the search beside the slow form of the same equations: orders, masks, losses, rates."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from stages.compress_tokens.search import RateSearch
from tests.stages.compress_tokens.slow_diffrate import SlowAdam, small_vit, training_pass

STEPS = 50
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4}
"""Of losses; float32 sums in another order, and Adam divides small gradients by their own size."""


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("pool", ["token", "avg"])
def test_the_search_follows_the_equations_step_by_step(pool, dtype):
    plain, model = small_vit(pool=pool).to(dtype), small_vit(pool=pool).to(dtype)
    search = RateSearch(model, gmacs_ratio=0.6, granularity=1, budget_form="relative", budget_weight=20.0)
    model.to(dtype).train()
    plain.requires_grad_(False)
    active = [reduction.prune is not None for reduction in search.reductions]
    assert active == ([False, True, False] if pool == "avg" else [False, True, True])
    scores = [[torch.zeros(8, dtype=dtype, requires_grad=True) for _ in "pm"] if on else None for on in active]
    leaves = [one for pair in scores if pair for one in pair]
    fast, slow = torch.optim.AdamW(search.parameters(), lr=0.03, weight_decay=0.0), SlowAdam(leaves, rate=0.03)
    generator = torch.Generator().manual_seed(1)
    masks: list[torch.Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _module, _inputs, output: masks.append(output.mask[0].detach()))
    met = set()
    for _ in range(STEPS):
        images = torch.randn(2, 1, 4, 8, generator=generator, dtype=torch.float64).to(dtype)
        labels = torch.randint(0, 4, (2,), generator=generator)
        masks.clear()
        search.update()
        logits = model(images)
        loss = functional.cross_entropy(logits, labels) + search.budget_loss()
        seen = training_pass(plain, scores, images)
        expected = functional.cross_entropy(seen.logits, labels)
        expected = expected + 20.0 * ((seen.macs - search.target_macs) / search.shape.dense_macs) ** 2
        for index, reduction in enumerate(search.reductions):
            live = len(seen.orders[index][0])
            assert reduction.order_BN[:, :live].tolist() == seen.orders[index]
            torch.testing.assert_close(masks[index], seen.masks[index], rtol=0, atol=1e-6)
        assert search.schedule().kept_tokens(9) == tuple(seen.counts)
        assert float(loss) == pytest.approx(float(expected), abs=TOLERANCE[dtype])
        met.add(tuple(seen.counts))
        loss.backward()
        expected.backward()
        fast.step()
        fast.zero_grad()
        slow.step()
    for found, wanted in zip(search.parameters(), leaves, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=10 * TOLERANCE[dtype])
    assert len(met) > 1, "no rate moved, nothing was compared"

"""Invariants of DiffRate's search: rates, masks, cost, what learns and what rests."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from stages.compress_tokens.search import RateProxy, RateSearch, epoch_rate_factor
from stages.models.token_reduction import TRANSFORM
from stages.ops.token_budget import ViTShape
from tests.stages.compress_tokens.slow_diffrate import small_vit


def searching(model=None, **changes):
    model = model or small_vit().double()
    search = RateSearch(model, **{"gmacs_ratio": 0.6, "granularity": 1, **changes})
    model.double()
    search.update()
    return model, search


def randomise(search, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for logits in search.parameters():
            logits.copy_(torch.randn(logits.shape, generator=generator) * scale)
    search.update()


def images(count=2, seed=0):
    return torch.randn(count, 1, 4, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestRateProxy:
    @pytest.mark.parametrize(("granularity", "kept"), [(4, 101), (1, 100), (2, 100)])
    def test_every_block_starts_at_about_half(self, granularity, kept):
        proxy = RateProxy(196, granularity=granularity)
        assert proxy.count() == kept
        assert int(proxy().kept) == kept

    @pytest.mark.parametrize(("width", "expected"), [(384, 2.568), (768, 9.877)])
    def test_the_cost_at_the_start_is_the_known_one(self, width, expected):
        macs = {"embedding_macs": 197 * width * 768, "head_macs": width * 1000}
        shape = ViTShape(depth=12, num_patches=196, width=width, attention_width=width, hidden_width=4 * width, **macs)
        assert shape.macs([197] + [101] * 11) / 1e9 == pytest.approx(expected, abs=1e-3)

    def test_gradient_and_probabilities_are_those_of_the_equations(self):
        proxy = RateProxy(12, granularity=3).double()
        with torch.no_grad():
            proxy.logits.normal_()
        rate, share = proxy(), proxy.logits.softmax(0)
        (gradient,) = torch.autograd.grad(rate.kept, proxy.logits, retain_graph=True)
        torch.testing.assert_close(gradient, share * (proxy.candidates - rate.expected))
        keep = rate.keep_probability_N
        assert keep[0].item() == pytest.approx(1)
        assert bool((keep[1:] <= keep[:-1] + 1e-12).all())
        assert keep.sum().item() == pytest.approx(1 + rate.expected.item())

    def test_at_least_one_patch_stays(self):
        assert RateProxy(16, granularity=4).candidates.tolist() == [16, 12, 8, 4]
        assert RateProxy(16, granularity=5).candidates.tolist() == [16, 11, 6, 1]
        assert RateProxy(16, granularity=5, min_patches=2).candidates.tolist() == [16, 11, 6]
        assert RateProxy(16, granularity=99).candidates.tolist() == [16]


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_without_compression_the_model_computes_what_it_did(pool):
    """Up to the order of tokens: 1e-5 in evaluation, 1e-4 in training, where the softmax has its eps."""
    plain = small_vit(pool=pool).double()
    model, search = searching(copy.deepcopy(plain))
    with torch.no_grad():
        for logits in search.parameters():
            logits[0] = 100.0
    search.update()
    assert search.schedule().kept_tokens(9) == (9, 9, 9)
    torch.testing.assert_close(model.eval()(images()), plain(images()), rtol=0, atol=1e-5)
    torch.testing.assert_close(model.train()(images()), plain(images()), rtol=0, atol=1e-4)


@pytest.mark.parametrize("pool", ["token", "avg"])
@pytest.mark.parametrize("seed", range(4))
def test_masking_counts_what_removing_counts(pool, seed):
    model, search = searching(small_vit(pool=pool).double())
    randomise(search, seed)
    counts = []
    handles = [block.register_forward_hook(lambda _m, _i, out: counts.append(out)) for block in model.blocks]
    model.train()(images())
    masked = [int(out.mask[0].sum().round()) for out in counts]
    counts.clear()
    model.eval()(images())
    assert masked == [out.features.shape[1] for out in counts] == list(search.schedule().kept_tokens(9))
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("pool", ["token", "avg"])
@pytest.mark.parametrize("operations", ["prune", "both"])
def test_masked_training_computes_what_removing_computes(pool, operations):
    """But for the softmax's eps, and for the clamp of sizes, which is taken away here by making the merged tokens alike."""
    model, search = searching(small_vit(pool=pool).double(), operations=operations)
    randomise(search, seed=2)
    if operations == "both":
        with torch.no_grad():
            model.pos_embed.zero_()
        batch = torch.full((2, 1, 4, 8), 0.3, dtype=torch.float64)  # all patches are one: cosines are 1
    else:
        batch = images()
    assert min(search.schedule().kept_tokens(9)) < 9
    torch.testing.assert_close(model.train()(batch), model.eval()(batch), rtol=0, atol=2e-4)


def test_only_rates_learn_and_the_backbone_stays_to_the_bit():
    plain = small_vit().double()
    model, search = searching(copy.deepcopy(plain))
    optimizer = torch.optim.AdamW(search.parameters(), lr=0.05, weight_decay=0.0)
    model.train()
    for _ in range(5):
        search.update()
        (functional.cross_entropy(model(images()), torch.tensor([0, 1])) + search.budget_loss()).backward()
        assert not [n for n, p in model.named_parameters() if p.grad is not None and "logits" not in n]
        optimizer.step()
        optimizer.zero_grad()
    assert any(bool(logits.any()) for logits in search.parameters())
    search.finish()
    assert type(model) is type(plain)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), plain.state_dict().values(), strict=True))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_last_block_feels_only_the_budget():
    """Nothing attends to its tokens any more: their gradient from the cross entropy is exactly none."""
    model, search = searching()
    model.train()
    functional.cross_entropy(model(images()), torch.tensor([0, 1])).backward()
    last, middle = search.reductions[2], search.reductions[1]
    for proxy in (last.prune, last.merge):
        assert proxy.logits.grad is None or not bool(proxy.logits.grad.any())
    assert bool(middle.prune.logits.grad.any())
    search.update()
    search.budget_loss().backward()
    assert bool(last.merge.logits.grad.any())


def test_a_rate_that_does_not_bite_learns_from_the_budget_alone():
    model, search = searching()
    block = search.reductions[1]
    with torch.no_grad():
        block.merge.logits[0] = 100.0
    search.update()
    functional.cross_entropy(model.train()(images()), torch.tensor([0, 1])).backward()
    assert block.merge.logits.grad is None
    assert bool(block.prune.logits.grad.any())


@pytest.mark.parametrize(("ratio", "sign"), [(0.9999, -1), (0.6, 1)])
def test_the_budget_pulls_towards_itself(ratio, sign):
    """dK/dloss: with a budget of nearly dense every count is pushed up, with a small one down."""
    _model, search = searching(gmacs_ratio=ratio)
    search.budget_loss().backward()
    for reduction in search.reductions[1:]:
        for proxy in (reduction.prune, reduction.merge):
            rate = proxy()
            (slope,) = torch.autograd.grad(rate.kept, proxy.logits)
            assert sign * float(slope @ proxy.logits.grad) > 0


def test_cost_gradient_reaches_both_rates_and_the_next_attention():
    _, search = searching()
    shape = search.shape
    grads = torch.autograd.grad(search.macs, [search.reductions[1].prune.logits, search.reductions[1].merge.logits])
    after = search.schedule().kept_tokens(9)[1]
    per_token = 8 * 16**2 + 4 * 16**2 + 4 * 16 * after
    proxy = search.reductions[1].prune
    share = proxy.logits.softmax(0)
    slope = share * (proxy.candidates - (share * proxy.candidates).sum()) * per_token
    for gradient in grads:
        torch.testing.assert_close(gradient, slope)
    assert float(search.macs) == pytest.approx(shape.macs(search.schedule().kept_tokens(9)))


def test_absolute_and_relative_budgets_are_the_same_at_the_published_weight():
    _, search = searching(budget_form="absolute")
    assert float(search.budget_loss()) < 1e-6, "the square of G vanishes on small models"
    search.shape = ViTShape(
        depth=1, num_patches=196, width=1, attention_width=1, hidden_width=4, embedding_macs=int(4.599e9), head_macs=0
    )
    search.macs, search.target_macs = torch.tensor(3.0e9), 2.9e9
    absolute = float(search.budget_loss())
    search.budget_form, search.budget_weight = "relative", 106.0
    assert float(search.budget_loss()) == pytest.approx(absolute, rel=0.01)


def test_published_sizes_have_the_reference_loss_by_default(monkeypatch):
    _, small = searching()
    assert (small.budget_form, small.budget_weight) == ("relative", 106.0)
    monkeypatch.setattr("stages.compress_tokens.search.PUBLISHED_SIZE_GMACS", 1e-6)
    _, large = searching()
    assert (large.budget_form, large.budget_weight) == ("absolute", 5.0)


def test_permuted_patches_give_the_same_logits():
    model, search = searching()
    randomise(search, seed=1)
    tokens = model._pos_embed(model.patch_embed(images()))
    order = torch.cat([torch.zeros(1, dtype=torch.int64), torch.randperm(8) + 1])

    class Given(nn.Module):
        def forward(self, _images):
            return self.tokens

    given = Given()
    model.patch_embed, model.pos_embed, model.cls_token = given, None, None
    model.no_embed_class = True
    found = []
    for given.tokens in (tokens, tokens[:, order]):
        found.append(model.eval()(images()))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-5)


def test_the_state_dict_brings_the_rates_back_without_an_update():
    model, search = searching()
    randomise(search, seed=3)
    other, twin = searching()
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.eval()(images()), model.eval()(images()))
    assert twin.schedule() == search.schedule()


def test_a_searching_model_can_be_copied():
    model, _ = searching()
    assert torch.equal(copy.deepcopy(model).eval()(images()), model.eval()(images()))


def test_the_found_schedule_fixed_in_the_model_computes_the_same():
    model, search = searching()
    randomise(search, seed=5)
    expected = model.eval()(images())
    schedule = search.finish()
    TRANSFORM.attach(model, {"operator": "ranked", "prune": schedule.prune, "merge": schedule.merge})
    torch.testing.assert_close(model(images()), expected)


@pytest.mark.parametrize("ratio", [0.05, 1.0, 1.2])
def test_a_budget_out_of_reach_is_refused_with_what_can_be_reached(ratio):
    model = small_vit()
    with pytest.raises(ValueError, match=r"gmacs_ratio .* is out of reach; expected 0\.\d+ to below 1"):
        RateSearch(model, gmacs_ratio=ratio, granularity=1)
    assert all(parameter.requires_grad for parameter in model.parameters()), "the refused model is as it was"
    assert type(model).__name__ == "VisionTransformer"


def test_running_statistics_of_an_embedding_rest_too():
    model = small_vit()
    model.patch_embed.norm = nn.BatchNorm1d(16)
    model.patch_embed.forward = lambda batch: model.patch_embed.norm(model.patch_embed.proj(batch).flatten(2)).transpose(1, 2)
    search = RateSearch(model, gmacs_ratio=0.6, granularity=1)
    before = model.patch_embed.norm.running_mean.clone()
    model.train()
    search.update()
    model(images().float())
    assert torch.equal(model.patch_embed.norm.running_mean, before)


def test_the_learning_rate_falls_by_epochs_as_the_authors_has_it():
    rates = [0.01 * epoch_rate_factor(epoch, epochs=3, final=0.1) for epoch in range(3)]
    assert rates == pytest.approx([0.01, 0.01, 0.00775])
    assert epoch_rate_factor(2, epochs=3, final=None) == 1.0


def test_a_shortened_update_is_adam_at_the_shorter_rate():
    moved = []
    for rate, factor in ((0.05, 0.2), (0.01, None)):
        _model, search = searching(final_rate_factor=factor, epochs=1)
        optimizer = torch.optim.AdamW(search.parameters(), lr=rate, weight_decay=0.0)
        for step in range(3):
            search.before_step(step, 10.0)
            search.before_forward()
            search._factor = 0.2 if factor else 1.0
            search.budget_loss().backward()
            search.before_update(step)
            optimizer.step()
            optimizer.zero_grad()
            search.after_step(step)
        moved.append(torch.cat([p.detach() for p in search.parameters()]))
    torch.testing.assert_close(moved[0], moved[1])

"""Ranking, pruning, merging and masking on plain tensors, each against the obvious loop or a property of its equation."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from stages.ops.token_budget import (
    PUBLISHED_SCHEDULES,
    TokenSchedule,
    ViTShape,
    fit_budget,
    keep_rate_counts,
    refuse_schedule,
    tome_kept_tokens,
)
from stages.ops.tokens import (
    Tokens,
    attend,
    class_attention,
    masked_softmax,
    match_tokens,
    merge_bipartite,
    merge_in_place,
    position_mask,
    rank_tokens,
    reduce_ranked,
    spare_keys,
    take_tokens,
)


def random_tokens(count=9, width=6, batch=3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, count, width, generator=generator, dtype=dtype)
    size = torch.rand(batch, count, generator=generator, dtype=dtype) * 2 + 1
    importance = torch.rand(batch, count, generator=generator, dtype=dtype)
    return features, size, importance


def test_tokens_are_taken_as_a_gather_takes_them():
    features, size, importance = random_tokens()
    order = rank_tokens(importance, kept=4)
    expected = torch.stack([features[b, order[b]] for b in range(3)])
    assert torch.equal(take_tokens(features, order), expected)
    assert torch.equal(take_tokens(size, order), size.gather(1, order))


def test_the_class_token_comes_first_however_unimportant_it_is():
    importance = torch.tensor([[0.0, 0.3, 0.1, 0.6], [9.0, 0.1, 0.2, 0.3]])
    assert rank_tokens(importance, kept=4).tolist() == [[0, 3, 1, 2], [0, 3, 2, 1]]
    assert rank_tokens(importance, kept=1).tolist() == [[0], [0]]


def test_class_attention_is_a_softmax_with_sizes_as_multiplicities():
    """A token of size 2 counts as two of size 1."""
    query, key = torch.randn(1, 2, 1, 4, dtype=torch.float64), torch.randn(1, 2, 3, 4, dtype=torch.float64)
    doubled = torch.cat([key, key[:, :, 2:]], dim=2)
    found = class_attention(query, key, size=torch.tensor([[1.0, 1.0, 2.0]], dtype=torch.float64))
    expected = class_attention(query, doubled, size=None)
    torch.testing.assert_close(found[:, :2], expected[:, :2])
    torch.testing.assert_close(found[:, 2], expected[:, 2:].sum(1))


@pytest.mark.parametrize("count", [4, 9, 12, 15, 20, 26])
@pytest.mark.parametrize("sized", [True, False])
def test_attention_counts_a_token_as_often_as_its_size_says_with_and_without_spare_keys(count, sized):
    """Spare keys are there without gradients only; a token must not see them, whatever number of tokens is left over."""
    generator = torch.Generator().manual_seed(count)
    query, key, value = torch.randn(3, 64, 4, count, 8, generator=generator).unbind(0)
    size = torch.rand(64, count, generator=generator) * 2 + 0.5 if sized else None
    logits = query.double() @ key.double().transpose(-2, -1) / 8**0.5
    weight = logits.exp() * (1 if size is None else size.double()[:, None, None, :])
    expected = (weight / weight.sum(-1, keepdim=True) @ value.double()).float()
    torch.testing.assert_close(attend(query, key, value, size=size, scale=8**-0.5), expected, rtol=0, atol=2e-6)
    with torch.no_grad():
        torch.testing.assert_close(attend(query, key, value, size=size, scale=8**-0.5), expected, rtol=0, atol=2e-6)


def test_spare_keys_are_given_where_they_help_and_nowhere_else():
    key = torch.zeros(64, 4, 15, 8)
    assert spare_keys(key) == 0, "gradients are kept"
    with torch.no_grad():
        assert spare_keys(key) == 1
        assert spare_keys(key[:1]) == 0, "one image is too little work"
        assert spare_keys(key[:, :, :9]) in (0, 7), "left over: 1 of 8, or 9 of 16"
        assert spare_keys(torch.zeros(64, 4, 16, 8)) == spare_keys(torch.zeros(64, 4, 17, 8)) == 0
        assert spare_keys(torch.zeros(64, 4, 15, 64)) == 0, "wide heads are dear to copy"
        assert spare_keys(key.to("meta")) == 0
        with sdpa_kernel(SDPBackend.MATH):
            assert spare_keys(key) == 0, "what is multiplied is being counted"


def slow_reduce(features, size, importance, prune_to, merge_to):
    """One image, one token at a time."""
    order = [0, *sorted(range(1, len(features)), key=lambda j: -float(importance[j]))]
    features, size = [features[j] for j in order][:prune_to], [size[j] for j in order][:prune_to]
    groups, sizes = [[x] for x in features[:merge_to]], list(size[:merge_to])
    for x, s in zip(features[merge_to:], size[merge_to:], strict=False):
        likeness = [float(x @ y / (x.norm() * y.norm())) for y in features[1:merge_to]]
        best = likeness.index(max(likeness)) + 1
        groups[best].append(x)
        sizes[best] = sizes[best] + s * max(likeness)
    return torch.stack([sum(group) / len(group) for group in groups]), torch.stack(sizes)


@pytest.mark.parametrize(("prune_to", "merge_to"), [(9, 5), (6, 6), (7, 4), (8, 2), (4, 7)])
def test_pruning_and_merging_do_what_the_loop_does(prune_to, merge_to):
    features, size, importance = random_tokens()
    found = reduce_ranked(Tokens(features, size), importance, prune_to=prune_to, merge_to=merge_to)
    for image in range(3):
        expected, sizes = slow_reduce(features[image], size[image], importance[image], prune_to, min(prune_to, merge_to))
        torch.testing.assert_close(found.features[image], expected)
        torch.testing.assert_close(found.size[image], sizes.clamp(min=1e-6))


def test_merging_duplicates_keeps_the_sum_of_sizes_and_any_merging_at_most_that():
    features, _, importance = random_tokens(count=5)
    twins = torch.cat([features, features[:, 1:]], dim=1)
    ranks = torch.cat([importance + 2, importance[:, 1:]], dim=1)
    merged = reduce_ranked(Tokens(twins), ranks, prune_to=9, merge_to=5)
    torch.testing.assert_close(merged.size.sum(1), torch.full((3,), 9.0, dtype=torch.float64))
    torch.testing.assert_close(merged.size[:, 0], torch.ones(3, dtype=torch.float64))
    features, _, importance = random_tokens(count=12)
    assert bool((reduce_ranked(Tokens(features), importance, prune_to=12, merge_to=4).size.sum(1) <= 12 + 1e-9).all())


def test_a_size_never_falls_to_where_its_logarithm_is_none():
    features = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]])
    merged = reduce_ranked(Tokens(features), torch.tensor([[0.0, 0.9, 0.2, 0.1]]), prune_to=4, merge_to=2)
    assert bool(merged.size.log().isfinite().all())


def test_nothing_to_do_leaves_the_tokens_as_they_are():
    features, size, importance = random_tokens()
    tokens = Tokens(features, size)
    assert reduce_ranked(tokens, importance, prune_to=9, merge_to=12) is tokens
    assert merge_bipartite(tokens, features, merged=0) is tokens


def test_no_token_is_matched_to_the_class_token():
    features, _, _ = random_tokens()
    features[:, 5:] = features[:, :1]
    assert not bool(match_tokens(features, kept=5).target[:, :, 0].any())


def slow_bipartite(features, size, keys, merged):
    even, odd = list(range(2, len(features), 2)), list(range(1, len(features), 2))
    edges = []
    for i in even:
        likeness = [float(keys[i] @ keys[j] / (keys[i].norm() * keys[j].norm())) for j in odd]
        edges.append((max(likeness), i, odd[likeness.index(max(likeness))]))
    total, weight = features * size[:, None], size.clone()
    gone = set()
    for _, i, j in sorted(edges, reverse=True)[:merged]:
        total[j] += features[i] * size[i]
        weight[j] += size[i]
        gone.add(i)
    stay = [i for i in range(len(features)) if i not in gone]
    return {round(float(weight[i]), 9): total[i] / weight[i] for i in stay}


@pytest.mark.parametrize("merged", [1, 3, 4, 50])
def test_bipartite_matching_does_what_the_loop_does(merged):
    features, size, _ = random_tokens()
    keys = random_tokens(seed=1)[0]
    found = merge_bipartite(Tokens(features, size), keys, merged=merged)
    assert found.features.shape[1] == 9 - min(merged, 4)
    torch.testing.assert_close(found.size.sum(1), size.sum(1))
    torch.testing.assert_close(found.features[:, 0], features[:, 0])
    for image in range(3):
        expected = slow_bipartite(features[image], size[image], keys[image], min(merged, 4))
        for value, weight in zip(found.features[image], found.size[image], strict=False):
            torch.testing.assert_close(value, expected[round(float(weight), 9)])


class TestMaskedSoftmax:
    def test_rows_sum_to_one_and_masked_keys_get_next_to_nothing(self):
        logits = torch.randn(2, 3, 8, 8, dtype=torch.float64)
        mask = torch.ones(2, 8, dtype=torch.float64)
        mask[:, 5:] = 0
        attention = masked_softmax(logits, mask)
        torch.testing.assert_close(attention.sum(-1), torch.ones(2, 3, 8, dtype=torch.float64), rtol=0, atol=1e-12)
        assert float(attention[:, :, :5, 5:].max()) < 2e-6
        own = attention[:, :, range(5, 8), range(5, 8)]
        assert float(own.min()) > 1e-3, "a masked token still sees itself"

    def test_without_a_mask_it_is_softmax(self):
        logits = torch.randn(2, 3, 8, 8, dtype=torch.float64)
        found = masked_softmax(logits, torch.ones(2, 8, dtype=torch.float64))
        torch.testing.assert_close(found, logits.softmax(-1), rtol=0, atol=1e-6)

    def test_half_precision_is_computed_in_float32(self):
        logits = torch.full((1, 1, 4, 4), 8.0, dtype=torch.bfloat16)
        assert masked_softmax(logits, torch.ones(1, 4)).dtype == torch.bfloat16


def test_a_mask_hides_ranks_between_kept_and_current_and_passes_gradient_to_all():
    probability = torch.linspace(1, 0.1, 8, requires_grad=True)
    mask = position_mask(probability, kept=3, current=6)
    torch.testing.assert_close(mask, torch.tensor([1.0, 1, 1, 0, 0, 0, 1, 1]))
    mask.sum().backward()
    assert torch.equal(probability.grad, torch.ones(8))


def test_merging_in_place_keeps_rows_and_clamps_sizes():
    features, _, _ = random_tokens()
    tokens = Tokens(features, torch.full((3, 9), 0.5, dtype=torch.float64), torch.ones(3, 9))
    merged = merge_in_place(tokens, current=7, kept=4)
    assert torch.equal(merged.features[:, 4:], features[:, 4:])
    assert torch.equal(merged.size[:, 7:], tokens.size[:, 7:])
    counts = match_tokens(features[:, :7], kept=4).target.sum(1)
    torch.testing.assert_close(merged.size[:, :4], counts + 1)


SHAPES = {
    "deit_small_2.9": (384, 4.599, 2.9053),
    "deit_base_11.5": (768, 17.564, 11.5172),
}


@pytest.mark.parametrize("name", SHAPES)
def test_published_costs_are_reproduced(name):
    width, dense, reduced = SHAPES[name]
    macs = {"embedding_macs": 197 * width * 768, "head_macs": width * 1000}
    shape = ViTShape(depth=12, num_patches=196, width=width, attention_width=width, hidden_width=4 * width, **macs)
    assert shape.dense_macs / 1e9 == pytest.approx(dense, abs=1e-3)
    assert shape.macs(PUBLISHED_SCHEDULES[name].kept_tokens(197)) / 1e9 == pytest.approx(reduced, abs=1e-3)


def test_counts_that_rise_again_keep_what_there_is():
    schedule = TokenSchedule(prune=(9, 6, 8, 4), merge=(9, 7, 5, 4))
    assert schedule.kept_tokens(9) == (9, 6, 5, 4)
    assert schedule.pruned_tokens(9) == (0, 3, 0, 1)
    assert schedule.merged_tokens(9) == (0, 0, 1, 0)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (TokenSchedule(prune=(9,), merge=(9, 9)), "prune has 1 counts; the model has 2 blocks"),
        (TokenSchedule(prune=(9, 1), merge=(9, 9)), r"prune\[1\] is 1; expected 2 to 9"),
        (TokenSchedule(prune=(9, 9), merge=(10, 9)), r"merge\[0\] is 10; expected 2 to 9"),
    ],
)
def test_a_schedule_of_another_model_is_refused(schedule, message):
    with pytest.raises(ValueError, match=message):
        refuse_schedule(schedule, depth=2, num_tokens=9, who="test")


def test_constant_rates_and_budgets():
    assert tome_kept_tokens((3, 3, 3, 3), num_tokens=17) == (14, 11, 8, 5)
    assert tome_kept_tokens((50, 50), num_tokens=17) == (9, 5)
    assert keep_rate_counts(0.7, depth=4, num_tokens=197, blocks=(1, 2)) == (197, 139, 98, 98)
    shape = ViTShape(
        depth=2, num_patches=8, width=4, attention_width=4, hidden_width=16, embedding_macs=0, head_macs=0, mean_pooled=False
    )
    schedules = [(name, (9, kept)) for name, kept in (("a", 9), ("b", 6), ("c", 3))]
    assert fit_budget(0.95, shape=shape, schedules=schedules, who="test")[0] == "b"
    with pytest.raises(ValueError, match=r"test: gmacs_ratio 0\.1 cannot be reached; the least is 0\."):
        fit_budget(0.1, shape=shape, schedules=schedules, who="test")

"""LBC's arithmetic: gradients, removal, symmetries, and the trajectory of the published equations written out slowly."""

from __future__ import annotations

from math import ceil

import pytest
import torch
from torch import nn

from stages.ops.nm import from_blocks, incidence, to_blocks
from stages.ops.pattern import NMPattern
from stages.sparsify.combinations import RemovalHook, add_scores, drop_scores

PATTERN = NMPattern(2, 4)


class SmallNet(nn.Module):
    """A convolution and a linear layer to make sparse between two dense ones."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.hidden, self.head = nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, images):
        features = torch.relu(self.conv(torch.relu(self.stem(images)))).mean((2, 3))
        return self.head(torch.relu(self.hidden(features)))


def small_net(dtype=torch.float32) -> SmallNet:
    torch.manual_seed(0)
    return SmallNet().to(dtype)


def batches(count, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        labels = torch.randint(3, (16,), generator=generator)
        images = torch.randn(16, 1, 6, 6, generator=generator) + labels.view(-1, 1, 1, 1)
        yield images.to(dtype), labels


class Binarize(torch.autograd.Function):
    """1 where the sum of alive scores is not 0; its gradient passes unchanged."""

    @staticmethod
    def forward(ctx, z):
        return (z != 0).to(z)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class ReferenceLayer:
    """The authors' form: a score of exactly 0 means removed; the k lowest are zeroed before every forward pass."""

    def __init__(self, weight):
        self.weight = weight
        self.rows = incidence(PATTERN).to(weight)
        self.scores = nn.Parameter(torch.full((weight.numel() // 4, 6), 1 / 3, dtype=weight.dtype))

    def remove(self, count):
        with torch.no_grad():
            blocks = self.scores.tolist()
            for block in blocks:
                ranked = sorted(range(6), key=lambda c, b=block: b[c] - 1000 * (b[c] == 0))
                for c in ranked[:count]:
                    block[c] = 0.0
            self.scores.copy_(torch.tensor(blocks, dtype=self.scores.dtype))

    def mask(self):
        alive = (self.scores != 0).to(self.scores)
        return from_blocks(Binarize.apply((self.scores * alive) @ self.rows), self.weight.shape)


def reference_forward(net, layers, images):
    def weight(layer):
        return layers[layer].mask() * layers[layer].weight

    features = torch.relu(net.stem(images))
    features = torch.relu(nn.functional.conv2d(features, weight("conv"), net.conv.bias, padding=1)).mean((2, 3))
    return net.head(torch.relu(nn.functional.linear(features, weight("hidden"), net.hidden.bias)))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_masks_and_weights_follow_the_authors_code_step_by_step(dtype, tolerance):
    """60 steps in 12 epochs, N:M from epoch 8 on: masks equal at every step; weights to the noise of the element type."""
    epochs, steps_per_epoch, end, power = 12, 5, 8, 3
    slow, ours = small_net(dtype), small_net(dtype)
    reference = {name: ReferenceLayer(getattr(slow, name).weight) for name in ("conv", "hidden")}
    layers = add_scores(ours, ("conv", "hidden"), pattern=PATTERN)
    hook = RemovalHook(layers, start=0, end=end, power=power)
    slow_scores, our_scores = [layer.scores for layer in reference.values()], [layer.scores for layer in layers.values()]

    def optimizer(net, scores):
        weights = [p for p in net.parameters() if all(p is not score for score in scores)]
        groups = [{"params": weights, "weight_decay": 1e-3}, {"params": scores, "weight_decay": 1e-4}]
        return torch.optim.SGD(groups, lr=0.1, momentum=0.9)

    slow_steps, our_steps = optimizer(slow, slow_scores), optimizer(ours, our_scores)
    seen = set()
    for step, (images, labels) in enumerate(batches(epochs * steps_per_epoch, dtype)):
        epoch = step // steps_per_epoch
        kept = 1 + ceil(5 * (1 - epoch / end) ** power) if epoch < end else 1
        for layer in reference.values():
            layer.remove(6 - kept)
        if kept == 1:
            slow_steps.param_groups[1].update(momentum=0.0, weight_decay=0.0)
            for score in slow_scores:
                score.requires_grad_(False)
        hook.before_step(step, step / steps_per_epoch)
        for name, layer in layers.items():
            expected = reference[name].mask().bool()
            assert torch.equal(layer.mask, expected), f"step {step}, {name}"
            seen.add(int(expected.sum()))
        for net_loss, steps in (
            (nn.functional.cross_entropy(reference_forward(slow, reference, images), labels), slow_steps),
            (nn.functional.cross_entropy(ours(images), labels), our_steps),
        ):
            steps.zero_grad()
            net_loss.backward()
            steps.step()
        for name, layer in layers.items():
            alive = ~layer.removed
            torch.testing.assert_close(layer.scores[alive], reference[name].scores[alive], rtol=0, atol=tolerance)
    assert len(seen) > 4, "the masks never changed, so the comparison says nothing"
    masks = drop_scores(ours, layers)
    for name, mask in masks.items():
        assert to_blocks(mask, m=4).sum(dim=1).tolist() == [2] * (mask.numel() // 4)
        expected = reference[name].weight * mask
        torch.testing.assert_close(getattr(ours, name).weight, expected, rtol=0, atol=tolerance)


def linear_with_scores(pattern=PATTERN, removed=0, outputs=6):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8 if pattern.m <= 8 else 16, outputs, bias=False))
    layers = add_scores(net, ("0",), pattern=pattern)
    with torch.no_grad():
        layers["0"].scores.add_(0.1 * torch.randn_like(layers["0"].scores))
    layers["0"].remove(removed)
    return net, layers["0"]


@pytest.mark.parametrize("removed", [0, 2, 4, 5])
def test_gradients_are_those_of_the_equations(removed):
    net, layer = linear_with_scores(removed=removed)
    inputs, targets = torch.randn(5, 8), torch.randn(5, 6)
    (net(inputs) - targets).square().sum().backward()
    weight = net[0].parametrizations.weight.original
    g = 2 * ((inputs @ (weight * layer.mask).T - targets).T @ inputs).detach()
    expected = (to_blocks(weight.detach() * g, m=4) @ incidence(PATTERN).float().T) * ~layer.removed
    torch.testing.assert_close(weight.grad, g * layer.mask, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.scores.grad, expected, rtol=1e-5, atol=1e-5)
    assert not bool(layer.scores.grad[layer.removed].any())
    assert not bool(weight.grad[~layer.mask].any())


@pytest.mark.parametrize("pattern", [NMPattern(2, 4), NMPattern(1, 4), NMPattern(2, 8), NMPattern(1, 16)], ids=str)
def test_a_block_never_has_more_non_zeros_than_its_combinations_cover(pattern):
    """nnz starts at M, never grows, is at most min(M, N * kept), and ends at N with one combination left."""
    _, layer = linear_with_scores(pattern)
    before = None
    for count in range(pattern.num_combinations):
        layer.remove(count)
        nonzero = to_blocks(layer.mask, m=pattern.m).sum(dim=1)
        assert count or nonzero.tolist() == [pattern.m] * len(nonzero)
        assert int(nonzero.max()) <= min(pattern.m, pattern.n * (pattern.num_combinations - count))
        assert before is None or bool((nonzero <= before).all())
        before = nonzero
    assert before.tolist() == [pattern.n] * len(before)
    assert (~layer.removed).sum(dim=1).tolist() == [1] * len(before)


def test_score_values_never_reach_the_output():
    net, layer = linear_with_scores(removed=3)
    inputs = torch.randn(5, 8)
    before = net(inputs)
    with torch.no_grad():
        layer.scores.mul_(7)
    assert torch.equal(net(inputs), before)


def test_alive_scores_of_opposite_sign_do_not_cancel_to_a_removed_weight():
    """In the authors' form the sum of scores decides, and 0.5 - 0.5 would drop a weight that is still covered."""
    _, layer = linear_with_scores()
    with torch.no_grad():
        layer.scores.copy_(torch.tensor([0.5, -0.5, 0.5, -0.5, 0.5, -0.5]).expand_as(layer.scores))
    layer.remove(0)
    assert bool(layer.mask.all())


def test_permuting_output_channels_permutes_the_masks():
    _, layer = linear_with_scores()
    _, other = linear_with_scores()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    with torch.no_grad():
        other.scores.copy_(layer.scores.view(6, 2, 6)[order].reshape(12, 6))
    layer.remove(5)
    other.remove(5)
    assert torch.equal(other.mask, layer.mask[order])


def test_permuting_inputs_inside_a_block_permutes_mask_columns_and_leaves_the_output():
    net, layer = linear_with_scores()
    other_net, other = linear_with_scores()
    order = [2, 0, 3, 1]
    columns = torch.tensor([*order, 4, 5, 6, 7])
    rows = [tuple(row.nonzero().flatten().tolist()) for row in incidence(PATTERN)]
    score_order = [rows.index(tuple(sorted(order[j] for j in kept))) for kept in rows]
    with torch.no_grad():
        net_weight, other_weight = (n[0].parametrizations.weight.original for n in (net, other_net))
        other_weight.copy_(net_weight[:, columns])
        scores = layer.scores.view(6, 2, 6).clone()
        scores[:, 0] = scores[:, 0, score_order]
        other.scores.copy_(scores.view(12, 6))
    layer.remove(5)
    other.remove(5)
    inputs = torch.randn(5, 8)
    assert torch.equal(other.mask, layer.mask[:, columns])
    torch.testing.assert_close(other_net(inputs[:, columns]), net(inputs), rtol=0, atol=1e-6)


@pytest.mark.parametrize("pattern", [NMPattern(2, 4), NMPattern(1, 4)], ids=str)
def test_a_planted_sparse_teacher_is_found(pattern):
    """y = W* x with W* exactly N:M and Gaussian x: at least 95 % of the blocks end on the planted support.

    The scores rank to first order, so the step must be small enough for weights not to swing about their target: with 16
    times this one the support is lost.
    """
    generator = torch.Generator().manual_seed(0)
    planted = torch.zeros(16 * 8, pattern.m)
    places = torch.rand(16 * 8, pattern.m, generator=generator).argsort(dim=1)[:, : pattern.n]
    signs = torch.randn(16 * 8, pattern.n, generator=generator).sign()
    planted.scatter_(1, places, signs * (0.5 + torch.rand(16 * 8, pattern.n, generator=generator)))
    teacher = from_blocks(planted, (16, 8 * pattern.m))
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(8 * pattern.m, 16, bias=False))
    layers = add_scores(net, ("0",), pattern=pattern)
    hook = RemovalHook(layers, start=0, end=20, power=3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    for step in range(40 * 20):
        hook.before_step(step, step / 20)
        inputs = torch.randn(64, 8 * pattern.m, generator=generator)
        optimizer.zero_grad()
        (net(inputs) - inputs @ teacher.T).square().mean().backward()
        optimizer.step()
    found = to_blocks(layers["0"].mask, m=pattern.m) == to_blocks(teacher != 0, m=pattern.m)
    assert float(found.all(dim=1).float().mean()) >= 0.95


def test_a_fresh_hook_goes_on_from_the_removed_buffer():
    """After a kill the hook is new and the buffers come back with the model's state."""
    _, layer = linear_with_scores()
    hook = RemovalHook({"0": layer}, start=0, end=10, power=3)
    hook.before_step(50, 5.0)
    before = layer.removed.clone()
    with torch.no_grad():
        layer.scores.neg_()
    RemovalHook({"0": layer}, start=0, end=10, power=3).before_step(51, 5.1)
    assert torch.equal(layer.removed, before)


def test_scores_rest_when_one_combination_is_left():
    _, layer = linear_with_scores()
    hook = RemovalHook({"0": layer}, start=0, end=10, power=3)
    hook.before_step(99, 9.9)
    assert layer.scores.requires_grad
    hook.before_step(100, 10.0)
    assert not layer.scores.requires_grad
    assert hook.metrics() == {"kept_combinations": 1.0, "mask_density": 0.5}

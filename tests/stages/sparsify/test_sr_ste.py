"""SR-STE: gradients, and the trajectory of the published equation written out slowly."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from stages.contract import Artifact, local_context
from stages.data.base import load_dataset
from stages.data.settings import DigitsData
from stages.models.bundle import build_bundle, fold_bundle, load_bundle, save_bundle
from stages.models.nm_mask import masked_layers
from stages.models.zoo import find_architecture
from stages.ops.pattern import NMPattern
from stages.sparsify import sr_ste
from stages.sparsify.settings import METRICS, SRSTESettings
from stages.sparsify.sr_ste import MagnitudeSparse, PullHook, add_magnitude_masks, drop_magnitude_masks
from stages.training.loop import train

LAMBDA = 2e-2
"""Large, so that a wrong pull shows."""


class SmallNet(nn.Module):
    """A convolution and a linear layer to make sparse between two dense ones."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.hidden, self.head = nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, images):
        features = torch.relu(self.conv(torch.relu(self.stem(images)))).mean((2, 3))
        return self.head(torch.relu(self.hidden(features)))


def small_net(dtype) -> SmallNet:
    torch.manual_seed(0)
    return SmallNet().to(dtype)


def slow_mask(weight, n, m):
    """Block by block, in Python: (O, I) as it lies, (O, I, kh, kw) by input channels."""
    rows = weight.detach() if weight.ndim == 2 else weight.detach().permute(0, 2, 3, 1)
    mask = torch.zeros(rows.numel(), dtype=weight.dtype)
    flat = rows.reshape(-1).tolist()
    for start in range(0, len(flat), m):
        order = sorted(range(m), key=lambda j: -abs(flat[start + j]))
        for j in order[:n]:
            mask[start + j] = 1
    mask = mask.reshape(rows.shape)
    return mask if weight.ndim == 2 else mask.permute(0, 3, 1, 2)


def slow_forward(net, images, masks):
    """The masked weights are leaves of their own, so that their gradient g is what autograd says and nothing else."""
    masked = {name: (getattr(net, name).weight.detach() * masks[name]).requires_grad_() for name in masks}
    features = torch.relu(net.stem(images))
    features = torch.relu(nn.functional.conv2d(features, masked["conv"], net.conv.bias, padding=1)).mean((2, 3))
    return net.head(torch.relu(nn.functional.linear(features, masked["hidden"], net.hidden.bias))), masked


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize("pattern", [NMPattern(2, 4), NMPattern(1, 8)], ids=str)
def test_masks_losses_and_weights_follow_the_equation_step_by_step(dtype, tolerance, pattern):
    """60 steps: w <- w - lr (momentum of (g + lambda (1 - mask) w)); masks equal at every step.

    Float32 rounds at 6e-8, which momentum and 60 steps at a rate of 0.05 carry to 1e-5; float64 shows that it is no more.
    """
    slow, ours = small_net(dtype), small_net(dtype)
    layers = add_magnitude_masks(ours, ("conv", "hidden"), pattern=pattern)
    hook = PullHook(ours, layers, sparse_decay=LAMBDA)
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.05, momentum=0.9)
    momenta = {name: torch.zeros_like(p) for name, p in slow.named_parameters()}
    generator, changed, seen = torch.Generator().manual_seed(1), 0, None
    for step in range(60):
        labels = torch.randint(3, (16,), generator=generator)
        images = (torch.randn(16, 1, 6, 6, generator=generator) + labels.view(-1, 1, 1, 1)).to(dtype)
        masks = {name: slow_mask(getattr(slow, name).weight, pattern.n, pattern.m) for name in layers}
        for name in layers:
            assert torch.equal(getattr(ours, name).weight != 0, masks[name].bool()), f"step {step}, {name}"
        changed += 0 if seen is None else sum(int((masks[name] != seen[name]).sum()) for name in masks)
        seen = masks
        logits, masked = slow_forward(slow, images, masks)
        slow_loss = nn.functional.cross_entropy(logits, labels)
        slow_loss.backward()
        with torch.no_grad():
            for name, parameter in slow.named_parameters():
                layer = name.removesuffix(".weight")
                pull = LAMBDA * (1 - masks[layer]) * parameter if layer in masks else 0
                momenta[name] = 0.9 * momenta[name] + (masked[layer].grad if layer in masks else parameter.grad) + pull
                parameter.sub_(0.05 * momenta[name])
                parameter.grad = None
        loss = nn.functional.cross_entropy(ours(images), labels)
        assert float((loss - slow_loss).detach()) == pytest.approx(0, abs=tolerance)
        optimizer.zero_grad()
        loss.backward()
        hook.after_clipping(step)
        optimizer.step()
        for name in layers:
            original = ours.get_submodule(name).parametrizations.weight.original
            torch.testing.assert_close(original, getattr(slow, name).weight, rtol=tolerance, atol=tolerance)
    assert changed > 0, "no mask ever changed: the test shows nothing"


def one_layer():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6, bias=False)).double()
    layers = add_magnitude_masks(net, ("0",), pattern=NMPattern(2, 4))
    return net, layers, net[0].parametrizations.weight.original


def test_removed_weights_have_the_gradient_of_the_masked_weight_and_the_pull():
    net, layers, weight = one_layer()
    factor = torch.randn(6, 8, dtype=torch.float64)
    sparse, mask = net[0].weight, slow_mask(weight, 2, 4)
    assert torch.equal(sparse, weight * mask)
    (sparse * factor).sum().backward()
    assert torch.equal(weight.grad, factor)
    PullHook(net, layers, sparse_decay=LAMBDA).after_clipping(0)
    torch.testing.assert_close(weight.grad, factor + LAMBDA * (1 - mask) * weight.detach(), rtol=0, atol=1e-15)


@pytest.mark.parametrize("limit", [1e-6, None])
def test_clipping_leaves_the_pull_whole_and_the_pull_does_not_make_it_clip_more(limit, tmp_path):
    """One step of the training loop itself, by plain SGD, on a loss whose gradient is known; the authors clip nothing."""
    data, factor = load_dataset(DigitsData()), 100 * torch.randn(10, 64)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
    layers = add_magnitude_masks(net, ("1",), pattern=NMPattern(2, 4))
    weight = net[1].parametrizations.weight.original
    before, mask = weight.detach().clone(), slow_mask(weight, 2, 4)
    settings = SRSTESettings(
        data="digits",
        epochs=1,
        batch_size=data.train.num_samples,
        optimizer="sgd",
        schedule="constant",
        warmup=0,
        momentum=0.0,
        weight_decay=0.0,
        learning_rate=0.1,
        max_gradient_norm=limit,
    )
    context = replace(local_context(settings, folder=tmp_path), num_threads=1)
    hook = PullHook(net, layers, sparse_decay=1.0)
    loss = lambda images, logits, labels: (net[1].weight * factor).sum() + 0 * logits.sum()  # noqa: E731
    train(net, data=data, settings=settings, context=context, hooks=(hook,), loss=loss)
    gradient = factor if limit is None else factor * limit / factor.norm()
    torch.testing.assert_close(weight.detach(), before - 0.1 * (gradient + (1 - mask) * before), rtol=1e-5, atol=1e-7)


def test_without_a_gradient_removed_weights_shrink_and_kept_ones_stay():
    layer = nn.Linear(8, 4, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.1, 3.2, 32).view(4, 8))
    before, mask = layer.weight.detach().clone(), slow_mask(layer.weight, 2, 4).bool()
    holder = nn.Sequential(layer)
    hook = PullHook(holder, add_magnitude_masks(holder, ("0",), pattern=NMPattern(2, 4)), sparse_decay=0.5)
    for step in range(20):
        (holder(torch.zeros(1, 8)).sum()).backward()
        hook.after_clipping(step)
        original = layer.parametrizations.weight.original
        with torch.no_grad():
            original -= 0.1 * original.grad
        original.grad = None
    after = layer.parametrizations.weight.original.detach()
    assert torch.equal(after[mask], before[mask])
    torch.testing.assert_close(after[~mask], before[~mask] * 0.95**20)


def test_permuting_output_channels_permutes_masks():
    weight, order = torch.randn(6, 8), torch.randperm(6)
    sparse = MagnitudeSparse(NMPattern(2, 4))
    assert torch.equal(sparse(weight[order]), sparse(weight)[order])


def test_dropping_the_masks_leaves_plain_layers_with_the_same_output():
    net, images = small_net(torch.float32), torch.randn(4, 1, 6, 6)
    layers = add_magnitude_masks(net, ("conv", "hidden"), pattern=NMPattern(2, 4))
    expected = net(images)
    masks = drop_magnitude_masks(net, layers)
    assert torch.equal(net(images), expected)
    assert all(torch.equal(net.get_submodule(name).weight != 0, mask) for name, mask in masks.items())
    assert set(net.state_dict()) == set(SmallNet().state_dict())


def test_the_stage_gives_an_n_m_model_with_fixed_masks(tmp_path):
    data = load_dataset(DigitsData())
    architecture = find_architecture("cnn_micro", {}, input_spec=data.input_spec, class_names=data.class_names)
    save_bundle(build_bundle(architecture, seed=0), tmp_path / "model")
    model = Artifact(kind="model", key="0" * 64, files={p.name: p for p in (tmp_path / "model").iterdir()})
    settings = SRSTESettings(data="digits", n_m="1:4", epochs=4)
    context = replace(local_context(settings, folder=tmp_path / "run", inputs={"model": model}), num_threads=1)
    result = sr_ste.run(context)
    assert result.metrics["nm_valid"] is True
    assert set(METRICS) <= set(result.metrics)
    assert result.metrics["num_nm_blocks"] == (32 * 48 + 48 * 32) * 9 // 4
    assert result.metrics["top1_accuracy"] > 0.85
    bundle = load_bundle(context.output)
    for name, fixed in masked_layers(bundle.model).items():
        assert int(fixed.mask.sum()) == fixed.mask.numel() // 4
        assert torch.equal(fold_bundle(bundle).get_submodule(name).weight != 0, fixed.mask)
    assert len(json.loads((context.output / "history.json").read_text())) == 4
    again = Artifact(kind="model", key="1" * 64, files={p.name: p for p in context.output.iterdir()})
    with pytest.raises(ValueError, match=r"sparsify\.sr_ste: the model carries nm_mask"):
        sr_ste.run(replace(context, inputs={"model": again}, output=tmp_path))

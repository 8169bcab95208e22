"""Restoration: measures against independent ones, what is degraded and learned, and every compression stage on such a model."""

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError
from torch.nn import functional

from orchestrator import api
from stages.data.base import Batch
from stages.data.photographs import _parts, load_photographs
from stages.data.settings import PhotographsData
from stages.models.restorers import find_restorer
from stages.models.zoo import build_network
from stages.ops.image_quality import MAX_PSNR_DB, psnr_db, ssim
from stages.ops.input_spec import InputSpec
from stages.pretrain.diffusion_settings import DiffusionSettings
from stages.pretrain.restoration_settings import RestorationSettings
from stages.training.tasks.base import find_task

SPEC = InputSpec(channels=1, height=16, width=16, mean=(0.5,), std=(0.5,))
DIGITS = {"name": "digits", "scaling": "symmetric", "size": 16}


def images(*, seed=0, count=3, channels=1, side=16):
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


def test_psnr_is_that_of_the_formula():
    references = images()
    assert psnr_db(references, references).tolist() == [MAX_PSNR_DB] * 3
    assert psnr_db(references * 0, references * 0 + 0.1).tolist() == pytest.approx([20.0] * 3, abs=1e-4)


class Cut:
    """The test images of a split, cut into squares of half the side, some of them without any detail."""

    def __init__(self, images, squares):
        self.images = (
            images.unfold(2, squares, squares)
            .unfold(3, squares, squares)
            .permute(0, 2, 3, 1, 4, 5)
            .reshape(-1, 1, squares, squares)
        )

    def batches(self, *, batch_size):
        for part in self.images.split(batch_size):
            yield Batch(part, torch.zeros(len(part), dtype=torch.int64))


def test_a_restorers_psnr_does_not_depend_on_how_images_are_cut_into_squares():
    """A mean over squares would rest on the empty ones, which anything restores: no network seems to gain."""
    model = build_network(find_restorer("vdsr_micro", {}, input_spec=SPEC, scale=2), seed=0)
    model.layers = torch.nn.ModuleList([torch.nn.Conv2d(1, 1, 1)])  # looks at a pixel alone, so squares have no borders
    model.degraded = lambda shown: (shown * 4).round() / 4
    shown = images(count=4) * 2 - 1
    shown[:, :, :8] = 0
    values = [find_task("image_to_image").evaluate(model, Cut(shown, side)).value for side in (16, 8, 4)]
    assert values == pytest.approx([values[0]] * 3, abs=1e-4)


def slow_ssim(one, other):
    """Place by place, window by window, of one channel."""
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    found = []
    for top in range(one.shape[0] - 10):
        for left in range(one.shape[1] - 10):
            x, y = (each[top : top + 11, left : left + 11] for each in (one, other))
            mx, my = (window * x).sum(), (window * y).sum()
            vx, vy, cov = (window * x * x).sum() - mx**2, (window * y * y).sum() - my**2, (window * x * y).sum() - mx * my
            found.append((2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    return np.mean(found)


def test_ssim_is_that_of_a_slow_reference():
    one, other = images(channels=2), images(seed=1, channels=2)
    expected = [np.mean([slow_ssim(a.double().numpy(), b.double().numpy()) for a, b in zip(x, y, strict=True)])
                for x, y in zip(one, other, strict=True)]  # fmt: skip
    assert ssim(one, other).tolist() == pytest.approx(expected, abs=1e-5)
    assert ssim(one, one).tolist() == pytest.approx([1.0] * 3, abs=1e-5)
    assert torch.allclose(ssim(one, other), ssim(other, one))


def test_small_images_get_a_smaller_window():
    assert ssim(images(side=8), images(side=8)).tolist() == pytest.approx([1.0] * 3, abs=1e-5)


def test_an_untrained_network_begins_near_its_input_and_tells_what_is_lacking():
    model = build_network(find_restorer("vdsr_micro", {}, input_spec=SPEC, scale=2), seed=0).eval()
    shown = model.degraded(images() * 2 - 1)
    assert shown.shape == (3, 1, 16, 16)
    assert float((model(shown) - shown).detach().abs().mean()) < 0.3
    with torch.no_grad():
        model.layers[-1].weight.zero_()
        model.layers[-1].bias.zero_()
    assert torch.equal(model(shown), shown)


def test_degrading_keeps_what_has_no_detail_and_nothing_finer_than_the_scale():
    model = build_network(find_restorer("vdsr_micro", {}, input_spec=SPEC, scale=2), seed=0)
    flat = torch.full((1, 1, 16, 16), 0.3)
    assert torch.allclose(model.degraded(flat), flat, atol=1e-6)
    chess = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1
    assert float(model.degraded(chess[None, None]).abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("name", "arguments", "scale", "words"),
    [
        ("vdrs", {}, 2, "unknown restorer 'vdrs'. Did you mean vdsr"),
        ("vdsr_micro", {"heads": 3}, 2, "unknown model_args .*known: width, depth"),
        ("vdsr_micro", {}, 3, "16x16 cannot be shrunk by scale 3"),
        ("vdsr_micro", {"depth": 1}, 2, "depth 1; expected at least 1 and 2"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(name, arguments, scale, words):
    with pytest.raises(ValueError, match=words):
        find_restorer(name, arguments, input_spec=SPEC, scale=scale)


def test_photographs_to_test_on_share_no_pixel_with_those_to_train_on():
    data = load_photographs(PhotographsData(size=64))
    assert data.input_spec.shape == (3, 64, 64)
    assert data.train.num_samples > 200
    assert data.test.num_samples == 2 * 4 * (128 // 64) ** 2
    assert -1 <= float(data.train.images.min()) < -0.9
    assert 0.9 < float(data.train.images.max()) <= 1
    for size in (16, 128):
        train, test = (torch.zeros(427 * 640, dtype=torch.bool) for _ in range(2))
        for seen, part in zip((train, test), _parts(torch.arange(427 * 640).reshape(1, 427, 640), size=size), strict=True):
            seen[part.flatten()] = True
        assert int(test.sum()) == 4 * 128**2
        assert not (train & test).any()


def test_label_smoothing_is_refused_when_a_network_for_images_is_planned():
    """Not after its data were read and its model built, on a machine that was waited for."""
    for settings in (RestorationSettings, DiffusionSettings):
        assert settings(model="m", data="digits").label_smoothing, "the default, which plays no part"
        with pytest.raises(ValidationError, match="not trained to tell labels"):
            settings(model="m", data="digits", label_smoothing=0.2)


def test_the_task_knows_no_labels():
    model = build_network(find_restorer("vdsr_micro", {}, input_spec=SPEC, scale=2), seed=0)
    from stages.training.settings import TrainingSettings

    with pytest.raises(ValueError, match="restoration knows no labels"):
        find_task("image_to_image").objective(model, TrainingSettings(data="digits", label_smoothing=0.1))
    objective = find_task("image_to_image").objective(model, TrainingSettings(data="digits"))
    sharp = images() * 2 - 1
    assert float(objective(lambda shown: shown, sharp, torch.zeros(3))) == pytest.approx(
        float(functional.l1_loss(model.degraded(sharp), sharp))
    )


def test_compression_applies_to_a_restorer_as_it_is(run_text):
    """Masks, fewer bits, exports and packing, by the stages that classifiers go through."""
    further = {"data": DIGITS, "epochs": 2}
    train = {"model": "vdsr_micro", "model_args": {"width": 16, "depth": 4}, "data": DIGITS, "epochs": 6}
    nodes = {
        "dense": {"stage": "pretrain.restoration", "params": train},
        "sparse": {"stage": "sparsify.lbc", "inputs": {"model": "dense"}, "params": {**further, "shift_pixels": 0}},
        "tuned": {"stage": "finetune.restoration", "inputs": {"model": "sparse"}, "params": further},
        "small": {"stage": "quantize.ptq", "inputs": {"model": "tuned"}, "params": {"data": DIGITS}},
        "onnx": {"stage": "export.onnx", "inputs": {"model": "tuned"}, "params": {"data": DIGITS}},
        "packed": {"stage": "export.packed", "inputs": {"model": "small"}, "params": {"data": DIGITS}},
        "score_dense": {"stage": "evaluate.restoration", "inputs": {"model": "dense"}, "params": {"data": DIGITS}},
        "score_onnx": {
            "stage": "evaluate.restoration",
            "inputs": {"model": "tuned", "exported": "onnx"},
            "params": {"data": DIGITS},
        },
        "score_packed": {
            "stage": "evaluate.restoration",
            "inputs": {"model": "small", "packed": "packed"},
            "params": {"data": DIGITS},
        },
    }
    result = run_text(yaml.safe_dump({"version": 1, "name": "restored", "nodes": nodes}, sort_keys=False))
    traces = {name: node.error or node.trace for name, node in result.status.nodes.items() if node.state == "failed"}
    assert result.state is api.State.DONE, traces
    scores = {name: node.metrics for name, node in result.status.nodes.items() if name.startswith("score")}
    assert scores["score_dense"]["psnr_db"] > scores["score_dense"]["psnr_db_input"] + 1
    assert scores["score_dense"]["psnr_db_per_image"] > scores["score_dense"]["psnr_db_per_image_input"] + 1
    assert scores["score_dense"]["ssim"] > scores["score_dense"]["ssim_input"]
    assert scores["score_onnx"]["psnr_db"] == pytest.approx(result.status.nodes["tuned"].metrics["psnr_db"], abs=0.01)
    assert scores["score_packed"]["size_bytes"] < 0.5 * scores["score_dense"]["size_bytes"]
    assert scores["score_packed"]["psnr_db"] > scores["score_dense"]["psnr_db_input"]


def test_a_restorer_is_refused_where_classifiers_are_taken(run_text):
    train = {"model": "vdsr_micro", "model_args": {"width": 8, "depth": 2}, "data": DIGITS, "epochs": 1}
    nodes = {
        "dense": {"stage": "pretrain.restoration", "params": train},
        "score": {"stage": "evaluate.classifier", "inputs": {"model": "dense"}, "params": {"data": DIGITS}},
    }
    node = run_text(yaml.safe_dump({"version": 1, "name": "wrong", "nodes": nodes})).status.nodes["score"]
    assert node.state == "failed"
    assert "vdsr_micro is one for image_to_image" in (node.error or node.trace)

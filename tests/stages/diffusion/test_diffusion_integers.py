"""Denoisers and restorers as integer files: zeros stay, images are drawn from them, bounds by timestep act on integers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from stages.data.base import load_dataset
from stages.evaluate.diffusion import run as evaluate
from stages.evaluate.diffusion_settings import DiffusionSettings
from stages.export import int8
from stages.export.integer_inputs import leave_rounding_to_operators
from stages.export.quantized_onnx import INTEGER_OPERATORS, stored_integers
from stages.export.settings import INT8Settings
from stages.models.bundle import build_bundle, fold_bundle, load_bundle
from stages.models.denoisers import find_denoiser
from stages.models.diffusion_sampler import sample_from_onnx, sample_images
from stages.models.nm_mask import masked_layers
from stages.models.restorers import find_restorer
from stages.models.zoo import find_architecture
from stages.ops.input_spec import InputSpec
from stages.ops.onnx_file import stored_arrays
from stages.quantize import ptq
from stages.quantize.settings import PTQSettings
from stages.sparsify import magnitude
from stages.sparsify.settings import MagnitudeSettings
from tests.stages.diffusion.conftest import DIGITS
from tests.stages.stage_calls import artifact_of, context_in, saved

SPEC = InputSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.5,))
QUICK = {"data": DIGITS, "calibration_samples": 64, "verify_samples": 64}


SMALL = {
    "block_out_channels": [8],
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "attention_head_dim": 8,
    "norm_num_groups": 4,
}


@pytest.fixture(scope="module")
def network():
    about = {"input_spec": SPEC, "num_timesteps": 1000, "schedule": "cosine"}
    return build_bundle(find_denoiser("unet_micro", SMALL, **about), seed=0)


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    """A denoiser of 2:4 weights, rounded by group of timesteps, and what its export reported and wrote."""
    folder = tmp_path_factory.mktemp("integers")
    dense = saved(network, folder / "dense")
    magnitude.run(context_in(folder / "sparse", MagnitudeSettings(data=DIGITS), model=dense))
    sparse = artifact_of(folder / "sparse" / "output")
    ptq.run(context_in(folder / "q", PTQSettings(data=DIGITS, timestep_groups=4, calibration_samples=128), model=sparse))
    model = artifact_of(folder / "q" / "output")
    return model, int8.run(context_in(folder, INT8Settings(**QUICK), model=model)).metrics, folder / "output"


def test_a_denoiser_runs_on_integers_and_its_zeros_are_zeros(exported):
    model, found, folder = exported
    assert found["relative_error"] < 0.1
    assert "top1_agreement" not in found
    layers = set(masked_layers(load_bundle(model).model)) - {"network.conv_in", "network.conv_out"}
    assert set(json.loads((folder / "export.json").read_text())["masked_layers"]) == layers
    assert (found["convolutions"], found["products"]) == ("static", "dynamic")
    ran = json.loads((folder / "export.json").read_text())["quantization"]["operators"]
    assert sum(count for name, count in ran.items() if name in INTEGER_OPERATORS) == found["num_integer_operators"]
    assert found["num_integer_operators"] == found["num_integer_weights"]
    assert ran["Conv"] == 2, "what reads and writes images"
    assert "Round" not in ran, "nothing is rounded in floats any more"


def test_a_weight_that_the_quantizer_turned_is_compared_the_right_way_round(exported):
    folder = exported[2]
    source = folder.parent / "scratch" / "float.onnx"
    floats, integers = stored_arrays(source), stored_integers(folder / "model.onnx", source=source)
    for name, stored in integers.items():
        assert stored.shape == floats[name].shape
        if stored.any():
            assert np.corrcoef(stored.flatten(), floats[name].flatten())[0, 1] > 0.8, name


def test_images_are_drawn_from_the_integer_file(exported, tmp_path):
    """Its folder has all that a float file's has, and `evaluate.diffusion` takes it where it takes that one."""
    model, _, folder = exported
    assert "sample_from_onnx" in (folder / "SAMPLING.md").read_text()
    network = load_bundle(model).model
    given = {"num_images": 8, "num_steps": 4, "seed": 5}
    expected = sample_images(network, scheduler=network.scheduler, shape=(1, 8, 8), **given)
    drawn = sample_from_onnx(folder, **given)
    assert float((drawn - (expected * 0.5 + 0.5).clamp(0, 1)).abs().mean()) < 0.05
    names = tuple(str(digit) for digit in range(10))
    classifier = saved(
        build_bundle(find_architecture("cnn_micro", {}, input_spec=SPEC, class_names=names), seed=0), tmp_path / "classifier"
    )
    settings = DiffusionSettings(data=DIGITS, num_samples=16, num_steps=2, grid_side=2)
    inputs = {"model": model, "classifier": classifier, "exported": artifact_of(folder, kind="exported")}
    scores = evaluate(context_in(tmp_path, settings, **inputs)).metrics
    assert scores["size_bytes"] == (folder / "model.onnx").stat().st_size
    plain = evaluate(context_in(tmp_path / "m", settings, model=model, classifier=classifier)).metrics
    assert scores["noise_mse"] != plain["noise_mse"], "the error is the file's"
    assert scores["noise_mse"] == pytest.approx(plain["noise_mse"], rel=0.05)


def test_with_bounds_by_group_of_timesteps_layers_see_each_image_over_its_own_bound(exported):
    """Then one fixed scale of integers serves all groups; but for the rounding, the layers give what they gave."""
    plain, ready = (fold_bundle(load_bundle(exported[0])) for _ in range(2))
    leave_rounding_to_operators(ready)
    seen: list[torch.Tensor] = []
    for layer in ready.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _layer, inputs, _output: seen.append(inputs[0]))
    generator = torch.Generator().manual_seed(0)
    images, timesteps = torch.randn(4, 1, 8, 8, generator=generator), torch.tensor([5, 300, 600, 999])
    with torch.no_grad():
        expected = plain(images, timesteps)
        assert float((ready(images, timesteps) - expected).norm() / expected.norm()) < 0.05
    assert max(float(value.abs().max()) for value in seen) <= 1


def test_each_image_is_clipped_to_the_bounds_of_its_own_group(exported):
    ready = fold_bundle(load_bundle(exported[0]))
    grids = {name: layer.input_quantizer for name, layer in ready.named_modules() if hasattr(layer, "input_quantizer")}
    leave_rounding_to_operators(ready)
    ready.clock.timesteps = torch.tensor([5, 300, 600, 999])
    differs = False
    for name, grid in grids.items():
        layer = ready.get_submodule(name)
        lower, upper = (bound.detach()[:, None].expand(4, 9) for bound in (grid.lower, grid.upper))
        value = torch.linspace(-2, 2, 9) * torch.maximum(lower.abs(), upper.abs())
        given = layer.input_quantizer(value) * torch.maximum(lower.abs(), upper.abs())
        torch.testing.assert_close(given, torch.clamp(value, lower, upper))
        differs = differs or not layer.input_quantizer.shares_lowest
    assert differs, "no layer shows it"


def test_a_restorer_runs_on_integers(tmp_path):
    model = saved(
        build_bundle(find_restorer("vdsr_micro", {"width": 16}, input_spec=SPEC, scale=2), seed=0), tmp_path / "model"
    )
    found = int8.run(context_in(tmp_path, INT8Settings(**QUICK), model=model)).metrics
    assert found["relative_error"] < 0.02
    assert found["num_integer_operators"] == 4, "all but the first and the last of six"


def test_calibration_of_single_images_is_spread_over_the_timesteps(network):
    data = load_dataset(INT8Settings(**QUICK).data)
    batches = int8._calibration(network, data, count=32, batch_size=1, seed=0)
    timesteps = sorted(int(timestep) for _, timestep in batches)
    assert timesteps == torch.linspace(0, 999, 32).round().long().tolist()


def test_the_tolerance_of_another_task_is_refused_and_the_own_one_holds(network, tmp_path):
    with pytest.raises(ValueError, match=r"min_agreement means nothing to a model for denoising; give max_relative_error"):
        int8.run(context_in(tmp_path, INT8Settings(**QUICK, min_agreement=0.5), model=saved(network, tmp_path / "model")))
    found, expected = torch.full((64, 1, 8, 8), 1.2), torch.ones(64, 1, 8, 8)
    with pytest.raises(
        RuntimeError, match=r"64 test images is 20\.0% from what the model gives .* at most 10\.0% is asked for"
    ):
        int8._check_agreement(network, found, expected, settings=INT8Settings(**QUICK))

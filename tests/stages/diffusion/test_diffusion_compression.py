"""Compression of denoisers: the stages for classifiers take them by their task, and rounding knows the timesteps."""

from __future__ import annotations

import pytest
import torch

from stages.models.bundle import fold_bundle, load_bundle
from stages.models.fake_quant import quantized_layers
from stages.models.timestep_groups import Clock, TimestepGroups
from stages.quantize import lts, ptq
from stages.quantize.settings import LTSSettings, PTQSettings
from stages.sparsify import lbc, magnitude
from stages.sparsify.settings import LBCSettings, MagnitudeSettings
from tests.stages.diffusion.conftest import DIGITS
from tests.stages.stage_calls import artifact_of, context_in

FREE = {"data": DIGITS, "shift_pixels": 0}
FEW_LAYERS = {"data": DIGITS, "unquantized_layers": ("network.up_blocks*", "network.mid_block*", "network.time_embedding*")}


def test_lbc_makes_a_denoiser_exactly_sparse_by_the_diffusion_loss(denoiser, trained, tmp_path):
    settings = LBCSettings(**FREE, n_m="2:4", epochs=2, learning_rate=1e-3)
    found = lbc.run(context_in(tmp_path, settings, model=denoiser)).metrics
    assert found["nm_valid"] is True
    assert found["initial_noise_mse"] == trained[0].metrics["noise_mse"]
    assert found["noise_mse"] < 0.7
    assert "top1_accuracy" not in found
    shot = magnitude.run(context_in(tmp_path / "shot", MagnitudeSettings(data=DIGITS), model=denoiser)).metrics
    assert shot["num_nm_blocks"] == found["num_nm_blocks"]
    assert shot["noise_mse"] > found["initial_noise_mse"]


def test_lts_trains_a_denoiser_with_rounded_weights(denoiser, tmp_path):
    settings = LTSSettings(**FREE, weight_bits=4, activation_bits=8, epochs=1, learning_rate=5e-4)
    found = lts.run(context_in(tmp_path, settings, model=denoiser))
    assert found.metrics["levels_valid"] is True
    assert found.metrics["num_normalized_layers"] == 0, "no batch norm takes up a scale here"
    assert found.metrics["noise_mse"] < 1
    assert "backward_cost_saved_measured" in found.measurements


def test_bounds_by_group_of_timesteps_lie_nearer_to_the_model_than_one_for_all(denoiser, tmp_path):
    """Four bits leave no room: what one range for all timesteps wastes is seen in the error."""
    errors = {}
    for groups in (1, 4):
        settings = PTQSettings(**FEW_LAYERS, activation_bits=4, timestep_groups=groups, calibration_samples=128)
        folder = tmp_path / str(groups)
        errors[groups] = ptq.run(context_in(folder, settings, model=denoiser)).metrics["noise_mse"]
        bundle = load_bundle(artifact_of(folder / "output"))
        bounds = next(iter(quantized_layers(bundle.model).values())).input_quantizer.lower
        assert bounds.shape == (() if groups == 1 else (4,))
    assert errors[4] < errors[1]


def test_each_image_is_rounded_by_the_bounds_of_its_own_timestep(denoiser, tmp_path):
    settings = PTQSettings(**FEW_LAYERS, activation_bits=4, timestep_groups=4, calibration_samples=64)
    ptq.run(context_in(tmp_path, settings, model=denoiser))
    bundle = load_bundle(artifact_of(tmp_path / "output"))
    images, timesteps = torch.randn(3, 1, 8, 8), torch.tensor([5, 400, 999])
    with torch.no_grad():
        together = bundle.model(images, timesteps)
        alone = [bundle.model(images[i : i + 1], timesteps[i : i + 1]) for i in range(3)]
        folded = fold_bundle(bundle)(images, timesteps)
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)
    assert torch.allclose(together, folded, atol=1e-5)


def test_timesteps_fall_into_groups_of_equal_length():
    clock = Clock(1000)
    clock.timesteps = torch.tensor([0, 249, 250, 999])
    assert TimestepGroups(clock, 4).index(torch.zeros(4, 2)).tolist() == [0, 0, 1, 3]
    with pytest.raises(ValueError, match="2 entries for 4 images"):
        TimestepGroups(clock, 4).index(torch.zeros(2, 2))


def test_groups_of_timesteps_are_for_denoisers(tmp_path):
    from stages.models.bundle import build_bundle, save_bundle
    from stages.models.zoo import find_architecture
    from stages.ops.input_spec import InputSpec

    spec = InputSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.5,))
    names = tuple(str(digit) for digit in range(10))
    save_bundle(build_bundle(find_architecture("cnn_micro", {}, input_spec=spec, class_names=names), seed=0), tmp_path / "m")
    settings = PTQSettings(data=DIGITS, timestep_groups=2, calibration_samples=16)
    with pytest.raises(ValueError, match="it is for denoisers"):
        ptq.run(context_in(tmp_path, settings, model=artifact_of(tmp_path / "m")))
    found = ptq.run(context_in(tmp_path, PTQSettings(data=DIGITS), model=artifact_of(tmp_path / "m"))).metrics
    assert found["top1_accuracy"] == pytest.approx(found["initial_top1_accuracy"], abs=0.05)

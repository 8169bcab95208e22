"""What a denoiser draws: distances, grids, and the same images from an exported file."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import linalg

from stages.evaluate.compare import run as compare
from stages.evaluate.diffusion import run, see_images
from stages.evaluate.diffusion_settings import DiffusionSettings
from stages.evaluate.grid import write_grid
from stages.evaluate.settings import CompareSettings
from stages.export import onnx, packed, program
from stages.export.settings import ONNXSettings, PackedSettings, ProgramSettings
from stages.models.bundle import build_bundle, load_bundle, save_bundle
from stages.models.diffusion_sampler import sample_from_onnx, sample_images
from stages.models.zoo import find_architecture
from stages.ops.frechet import frechet_distance
from stages.ops.input_spec import InputSpec
from tests.stages.diffusion.conftest import DIGITS
from tests.stages.stage_calls import artifact_of, context_in

SPEC = InputSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.5,))
SMALL = {"data": DIGITS, "num_samples": 32, "num_steps": 3, "grid_side": 4}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    names = tuple(str(digit) for digit in range(10))
    save_bundle(build_bundle(find_architecture("cnn_micro", {}, input_spec=SPEC, class_names=names), seed=0), folder)
    return artifact_of(folder)


def test_the_distance_is_that_of_two_normal_distributions():
    """Against the textbook formula with SciPy's matrix root; and equal sets have none."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(200, 5, generator=generator) @ torch.randn(5, 5, generator=generator)
    second = torch.randn(300, 5, generator=generator) * 2 + 1
    c1, c2 = np.cov(first.double().numpy().T), np.cov(second.double().numpy().T)
    gap = first.double().mean(0).numpy() - second.double().mean(0).numpy()
    expected = gap @ gap + np.trace(c1 + c2 - 2 * linalg.sqrtm(c1 @ c2).real)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(first[:1], second)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_perfect_denoiser_draws_the_one_image_there_is(sampler):
    """If all images are one, the best prediction of the noise is known; samplers must come back to that image."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
    image = torch.linspace(-0.9, 0.9, 16).reshape(1, 1, 4, 4)

    def predict(noisy, timesteps):
        kept = scheduler.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
        return (noisy - kept.sqrt() * image) / (1 - kept).sqrt()

    drawn = sample_images(predict, scheduler=scheduler, shape=(1, 4, 4), num_images=5, num_steps=50, sampler=sampler)
    assert float((drawn - image).abs().max()) < 0.05


def test_the_same_seed_draws_the_same_images_whatever_the_batch_size(denoiser):
    model = load_bundle(denoiser).model
    given = {"scheduler": model.scheduler, "shape": (1, 8, 8), "num_images": 6, "num_steps": 3}
    first = sample_images(model, **given, seed=1)
    assert torch.allclose(first, sample_images(model, **given, seed=1, batch_size=2), atol=1e-5)
    assert not torch.allclose(first, sample_images(model, **given, seed=2), atol=1e-2)
    with pytest.raises(ValueError, match="1000 timesteps"):
        sample_images(model, **{**given, "num_steps": 1001})


def test_an_exported_denoiser_draws_what_the_model_draws(denoiser, classifier, tmp_path):
    exported = onnx.run(context_in(tmp_path, ONNXSettings(data=DIGITS, verify_samples=8), model=denoiser))
    assert exported.metrics["max_relative_difference"] < 1e-4
    folder = tmp_path / "output"
    assert "sample_from_onnx" in (folder / "SAMPLING.md").read_text()
    model = load_bundle(denoiser).model
    given = {"num_images": 3, "num_steps": 4, "seed": 5}
    expected = sample_images(model, scheduler=model.scheduler, shape=(1, 8, 8), **given)
    assert torch.allclose(sample_from_onnx(folder, **given), (expected * 0.5 + 0.5).clamp(0, 1), atol=1e-3)
    with pytest.raises(ValueError, match="no export of a denoiser"):
        sample_from_onnx(tmp_path, num_images=1)
    settings = DiffusionSettings(**SMALL)
    file = artifact_of(folder, kind="exported")
    by_file = run(context_in(tmp_path / "f", settings, model=denoiser, classifier=classifier, exported=file)).metrics
    by_model = run(context_in(tmp_path / "m", settings, model=denoiser, classifier=classifier)).metrics
    assert by_file["frechet_distance"] == pytest.approx(by_model["frechet_distance"], rel=1e-3)
    assert by_file["size_bytes"] == (folder / "model.onnx").stat().st_size
    with pytest.raises(ValueError, match=r"export.program takes models for classification"):
        program.run(context_in(tmp_path / "p", ProgramSettings(), model=denoiser))


def test_evaluations_of_packed_denoisers_come_with_a_grid_and_stand_in_one_table(denoiser, classifier, tmp_path):
    packed.run(context_in(tmp_path / "packed", PackedSettings(verify_samples=4), model=denoiser))
    settings = DiffusionSettings(**SMALL)
    file = artifact_of(tmp_path / "packed" / "output", kind="packed")
    context = context_in(tmp_path, settings, model=denoiser, classifier=classifier, packed=file)
    found = run(context)
    assert found.metrics["size_bytes"] == (tmp_path / "packed" / "output" / "packed.safetensors").stat().st_size
    assert found.metrics["frechet_distance"] > found.metrics["frechet_distance_real"], "noise is nearer than digits"
    assert found.measurements["seconds_per_image"] > 0
    assert Image.open(context.output / "samples.png").size == (4 * 33 + 1, 4 * 33 + 1)
    evaluation = artifact_of(context.output, kind="evaluation")
    table = compare(context_in(tmp_path / "t", CompareSettings(), results=(evaluation,)))
    assert table.metrics["best_frechet_distance"] == found.metrics["frechet_distance"]
    assert "Fréchet distance" in (tmp_path / "t" / "output" / "table.md").read_text()
    other = json.loads(file.file("export.json").read_text())
    file.file("export.json").write_text(json.dumps({**other, "source_digest": "0" * 64}))
    with pytest.raises(ValueError, match="that of another model"):
        run(context)


def test_the_grid_shows_images_row_by_row(tmp_path):
    images = torch.full((4, 1, 8, 8), -1.0)
    images[1] = 1.0
    write_grid(images, tmp_path / "grid.png", spec=SPEC, columns=2)
    pixels = np.asarray(Image.open(tmp_path / "grid.png"))
    assert pixels.shape == (67, 67, 3)
    assert pixels[1:33, 34:66].min() == 255
    assert pixels[1:33, 1:33].max() == 0
    assert pixels[34:66].min() == 0


def test_features_are_what_the_last_layer_sees(classifier):
    model = load_bundle(classifier).model
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(model.head(see_images(model, images).features), model(images), atol=1e-6)

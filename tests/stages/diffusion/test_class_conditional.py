"""Denoisers that draw by class: labels in training and in every stage after it, guidance, exported files, pipelines."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from stages.data.base import Batch, load_dataset
from stages.evaluate.diffusion import run as evaluate
from stages.evaluate.diffusion_settings import DiffusionSettings as EvaluationSettings
from stages.export import packed
from stages.export.settings import PackedSettings
from stages.models.bundle import build_bundle, load_bundle, save_bundle
from stages.models.denoisers import find_denoiser
from stages.models.diffusion_sampler import sample_images
from stages.models.zoo import find_architecture
from stages.ops.input_spec import InputSpec
from stages.ops.seeds import derive_seed
from stages.pretrain import training
from stages.pretrain.diffusion_load import load_diffusion
from stages.pretrain.diffusion_settings import TINY_DENOISER, DiffusionSettings, LoadDiffusionSettings
from stages.quantize import lts, ptq
from stages.quantize.settings import LTSSettings, PTQSettings
from stages.sparsify import lbc, magnitude
from stages.sparsify.settings import LBCSettings, MagnitudeSettings
from stages.training.settings import TrainingSettings
from stages.training.tasks.denoising import TASK
from tests.stages.diffusion.conftest import DIGITS
from tests.stages.stage_calls import artifact_of, context_in

SPEC = InputSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.5,))
NAMES = tuple(str(digit) for digit in range(10))
SMALL_UNET = {
    "block_out_channels": (8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
}
SMALL_DIT = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2}


def denoiser_of(name: str, class_names=NAMES, **more):
    settings = {"input_spec": SPEC, "num_timesteps": 100, "schedule": "linear", "class_names": class_names, **more}
    return build_bundle(find_denoiser(name, {}, **settings), seed=0)


@pytest.fixture(scope="module")
def by_class(tmp_path_factory):
    """A tiny U-Net that was trained by class for two epochs."""
    folder = tmp_path_factory.mktemp("by_class")
    training.run(context_in(folder, DiffusionSettings(**{**TINY_DENOISER, "epochs": 2, "class_conditional": True})))
    return artifact_of(folder / "output")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    save_bundle(build_bundle(find_architecture("cnn_micro", {}, input_spec=SPEC, class_names=NAMES), seed=0), folder)
    return artifact_of(folder)


@pytest.mark.parametrize("name", ["unet_micro", "dit_micro"])
def test_a_denoiser_by_class_travels_in_a_bundle_and_heeds_the_label(name, tmp_path):
    bundle = denoiser_of(name)
    for parameter in bundle.model.parameters():  # a DiT begins with zeros behind its classes
        torch.nn.init.normal_(parameter, std=0.1)
    save_bundle(bundle, tmp_path)
    loaded = load_bundle(tmp_path)
    images, timesteps = torch.randn(3, 1, 8, 8), torch.tensor([0, 50, 99])
    with torch.no_grad():
        found = [loaded.model(images, timesteps, torch.full((3,), label)) for label in (0, 3, loaded.model.no_class)]
        assert torch.equal(found[1], bundle.model.eval()(images, timesteps, torch.full((3,), 3)))
        assert torch.equal(found[0], loaded.model(images, timesteps)), "whoever only counts layers need know no labels"
    assert not torch.allclose(found[0], found[1])
    assert not torch.allclose(found[0], found[2])
    assert loaded.model.no_class == 10
    assert list(loaded.model.more_inputs) == ["timesteps", "labels"]
    assert loaded.architecture.class_names == NAMES


def test_training_leaves_out_a_stated_share_of_the_labels_and_keeps_the_others():
    model = denoiser_of("dit_micro", label_dropout=0.25).model
    told = []
    objective = TASK.objective(model, TrainingSettings(data="digits"))
    labels = torch.arange(2000) % 10

    def forward(noisy, _timesteps, given):
        told.append(given)
        return noisy

    torch.manual_seed(0)
    objective(forward, torch.zeros(2000, 1, 8, 8), labels)
    is_left_out = told[0] == 10
    assert float(is_left_out.double().mean()) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(told[0][~is_left_out], labels[~is_left_out])
    with pytest.raises(ValueError, match="mixup and CutMix"):
        objective(forward, torch.zeros(4, 1, 8, 8), torch.full((4, 10), 0.1))
    batch = Batch(torch.zeros(400, 1, 8, 8), labels[:400])
    *_, calibration = TASK.inputs(model, batch, seed=1)
    assert 0.15 < float((calibration == 10).double().mean()) < 0.35
    assert torch.equal(calibration, TASK.inputs(model, batch, seed=1)[2])
    assert TASK.inputs(denoiser_of("dit_micro", class_names=()).model, batch, seed=1)[1:][1:] == ()


def test_labels_make_the_task_easier_once_they_are_learned(tmp_path):
    """A model that is told which of two images there is predicts the noise better than one that is told the wrong one."""
    data = {"name": "synthetic", "num_classes": 2, "noise": 0.0}
    settings = DiffusionSettings(**{**TINY_DENOISER, "data": data, "epochs": 25, "class_conditional": True})
    training.run(context_in(tmp_path, settings))
    model = load_bundle(artifact_of(tmp_path / "output")).model
    test = load_dataset(settings.data).test
    right = TASK.evaluate(model, test).value
    wrong = TASK.evaluate(model, replace(test, labels=1 - test.labels)).value
    assert right < 0.9 * wrong


COMPRESSIONS = {
    "lbc": (lbc.run, LBCSettings(data=DIGITS, shift_pixels=0, n_m="2:4", epochs=2, learning_rate=1e-3)),
    "magnitude": (magnitude.run, MagnitudeSettings(data=DIGITS)),
    "lts": (lts.run, LTSSettings(data=DIGITS, shift_pixels=0, weight_bits=4, activation_bits=8, epochs=1)),
    "ptq": (ptq.run, PTQSettings(data=DIGITS, timestep_groups=2, calibration_samples=64)),
}


@pytest.mark.parametrize("method", COMPRESSIONS)
def test_compression_keeps_a_denoiser_by_class_what_it_is(method, by_class, tmp_path):
    run, settings = COMPRESSIONS[method]
    found = run(context_in(tmp_path, settings, model=by_class)).metrics
    bundle = load_bundle(artifact_of(tmp_path / "output"))
    assert bundle.architecture == load_bundle(by_class).architecture
    assert bundle.model.label_dropout == 0.1
    assert 0 < found["noise_mse"] < 1.2


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_guidance_pushes_the_prediction_away_from_that_without_a_class(scale):
    """Two images, one for each class, and none without: the known best prediction, by a scale, ends where that says."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", clip_sample=False)
    images = torch.tensor([-0.2, 0.3, 0.1]).reshape(3, 1, 1, 1).expand(3, 1, 4, 4)
    calls = []

    def predict(noisy, timesteps, labels):
        calls.append(labels)
        kept = scheduler.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
        return (noisy - kept.sqrt() * images[labels]) / (1 - kept).sqrt()

    labels = torch.tensor([0, 1, 1, 0, 1])
    given = {"scheduler": scheduler, "shape": (1, 4, 4), "num_images": 5, "num_steps": 50, "batch_size": 2, "labels": labels}
    drawn = sample_images(predict, **given, no_class=2, guidance_scale=scale)
    expected = images[2] + scale * (images[labels] - images[2])
    assert float((drawn - expected).abs().max()) < 0.05
    assert len(calls) == (1 if scale == 1 else 2) * 3 * 50
    with pytest.raises(ValueError, match='has no "no class"'):
        sample_images(predict, **given, guidance_scale=2.0)
    with pytest.raises(ValueError, match="draws without classes"):
        sample_images(predict, **{**given, "labels": None}, guidance_scale=2.0)


def test_guided_values_that_are_clipped_leave_noise_that_fits_them():
    """Digits guided by 4 were unreadable otherwise. Clipped to 1, the way there is that of a model which draws 1."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
    ways = []

    def drawn_by(images, **guidance):
        ways.append([])

        def predict(noisy, timesteps, labels):
            ways[-1].append(noisy)
            kept = scheduler.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
            return (noisy - kept.sqrt() * images[labels].reshape(-1, 1, 1, 1)) / (1 - kept).sqrt()

        given = {"scheduler": scheduler, "shape": (1, 4, 4), "num_images": 2, "num_steps": 10, "labels": torch.tensor([0, 0])}
        return sample_images(predict, **given, **guidance)

    guided = drawn_by(torch.tensor([0.8, 0.2]), no_class=1, guidance_scale=3.0)
    plain = drawn_by(torch.tensor([1.0]))
    assert torch.allclose(guided, plain, atol=1e-3)
    for one, other in zip(ways[0][::2], ways[1], strict=True):
        assert torch.allclose(one, other, atol=1e-2)


def test_an_evaluation_counts_the_images_of_the_class_asked_for_and_shows_them_class_by_class(
    by_class, classifier, tmp_path, monkeypatch
):
    """Drawn images are made brighter with the label; the classifier is one that reads the brightness."""
    from stages.evaluate import diffusion

    def draw(_predict, *, labels, shape, **_):
        return (labels.reshape(-1, 1, 1, 1) / 5 - 1).expand(-1, *shape).clone()

    def see(_classifier, images, **_):
        return diffusion.Seen(images.flatten(1)[:, :2], ((images[:, 0, 0, 0] + 1) * 5).round().long() % 9)

    monkeypatch.setattr(diffusion, "sample_images", draw)
    monkeypatch.setattr(diffusion, "see_images", see)
    settings = EvaluationSettings(data=DIGITS, num_samples=40, num_steps=3, grid_side=5)
    context = context_in(tmp_path, settings, model=by_class, classifier=classifier)
    assert evaluate(context).metrics["class_accuracy"] == 0.9
    assert json.loads((context.output / "evaluation.json").read_text())["guidance_scale"] == 1.0
    pixels = np.asarray(Image.open(context.output / "samples.png"))[1::33, 1::33, 0][:5, :5].flatten().astype(int)
    assert (np.diff(pixels) >= 0).all()
    assert len(set(pixels.tolist())) == 10


def test_packed_files_and_layers_of_a_denoiser_by_class_are_checked_like_others(by_class, tmp_path):
    found = packed.run(context_in(tmp_path, PackedSettings(verify_samples=4), model=by_class)).metrics
    assert found["max_abs_difference"] == 0


def pipeline_of(folder, *, network=None, scheduler=None, kind="DDPMPipeline"):
    import diffusers

    scheduler = scheduler or diffusers.DDIMScheduler(num_train_timesteps=50, clip_sample=False)
    if kind == "DiTPipeline":
        network = network or diffusers.DiTTransformer2DModel(
            sample_size=8, in_channels=1, out_channels=2, num_embeds_ada_norm=10, **SMALL_DIT
        )
        found = diffusers.DiTPipeline(transformer=network, vae=None, scheduler=scheduler)
    else:
        found = diffusers.DDPMPipeline(unet=network, scheduler=scheduler)
    found.save_pretrained(folder)
    return network


def unet(**more):
    import diffusers

    return diffusers.UNet2DModel(sample_size=8, in_channels=1, out_channels=1, **SMALL_UNET, **more)


@pytest.mark.parametrize(
    ("settings", "no_class"),
    [({"num_class_embeds": 10}, None), ({"num_class_embeds": 11}, 10), ({"class_embed_type": "timestep"}, None)],
)
def test_a_pipelines_unet_by_class_becomes_a_model(settings, no_class, tmp_path):
    original = pipeline_of(tmp_path / "pipeline", network=unet(**settings)).eval()
    load_diffusion(context_in(tmp_path, LoadDiffusionSettings(data=DIGITS, pipeline=str(tmp_path / "pipeline"))))
    model = load_bundle(artifact_of(tmp_path / "output")).model
    images, timesteps, labels = torch.randn(3, 1, 8, 8), torch.tensor([3, 40, 7]), torch.tensor([9, 0, 4])
    with torch.no_grad():
        expected = original(images, timesteps, class_labels=labels).sample
        assert torch.allclose(model(images, timesteps, labels), expected, atol=1e-6)
    assert model.no_class == no_class
    assert model.label_dropout == (0.1 if no_class else 0)
    assert model.scheduler.config.clip_sample is False


@pytest.mark.parametrize("is_old", [False, True])
def test_a_pipelines_dit_draws_what_diffusers_draws_with_guidance(is_old, tmp_path):
    """Its learned variance is left out, as diffusers leaves it; folders of older releases call it a Transformer2DModel."""
    from diffusers import DDIMScheduler

    folder = tmp_path / "pipeline"
    original = pipeline_of(folder, kind="DiTPipeline").eval()
    for parameter in original.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    original.save_pretrained(folder / "transformer")
    if is_old:
        for name, change in (
            ("model_index.json", {"transformer": ["diffusers", "Transformer2DModel"]}),
            ("transformer/config.json", {"_class_name": "Transformer2DModel", "cross_attention_dim": None}),
        ):
            path = folder / name
            path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    load_diffusion(context_in(tmp_path, LoadDiffusionSettings(data=DIGITS, pipeline=str(folder), label_dropout=0.2)))
    bundle = load_bundle(artifact_of(tmp_path / "output"))
    assert bundle.model.label_dropout == 0.2
    labels = torch.tensor([3, 8])
    drawn = sample_images(
        bundle.model, scheduler=bundle.model.scheduler, shape=(1, 8, 8), num_images=2, num_steps=5, seed=1, labels=labels,
        no_class=10, guidance_scale=4.0,
    )  # fmt: skip
    scheduler = DDIMScheduler(num_train_timesteps=50, clip_sample=False)
    scheduler.set_timesteps(5)
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(derive_seed(1, "start")))
    for step in scheduler.timesteps:  # as DiTPipeline does it
        with torch.no_grad():
            both = original(torch.cat([images] * 2), step.expand(4), torch.cat([labels, torch.tensor([10, 10])])).sample[:, :1]
        images = scheduler.step(both[2:] + 4.0 * (both[:2] - both[2:]), step, images).prev_sample
    assert torch.allclose(drawn, images, atol=1e-3)


def test_a_pipeline_by_class_that_cannot_be_taken_is_refused_with_the_reason(tmp_path):
    from diffusers import EDMEulerScheduler

    def load(folder, **more):
        return load_diffusion(context_in(tmp_path / "run", LoadDiffusionSettings(data=DIGITS, pipeline=str(folder), **more)))

    pipeline_of(tmp_path / "many", network=unet(num_class_embeds=1000))
    with pytest.raises(ValueError, match="draws 1000 classes; the data have 10"):
        load(tmp_path / "many")
    pipeline_of(tmp_path / "vector", network=unet(class_embed_type="identity"))
    with pytest.raises(ValueError, match="takes a vector for each image"):
        load(tmp_path / "vector")
    pipeline_of(tmp_path / "sigmas", network=unet(), scheduler=EDMEulerScheduler())
    with pytest.raises(ValueError, match="has no betas; supported"):
        load(tmp_path / "sigmas")
    pipeline_of(tmp_path / "none", network=unet())
    with pytest.raises(ValueError, match="leave label_dropout out"):
        load(tmp_path / "none", label_dropout=0.3)
    pipeline_of(tmp_path / "plain", network=unet(num_class_embeds=10))
    with pytest.raises(ValueError, match=r'has no class for "no class".*leave label_dropout out'):
        load(tmp_path / "plain", label_dropout=0.3)
    index = {"_class_name": "PixArtPipeline", "transformer": ["diffusers", "PixArtTransformer2DModel"]}
    (tmp_path / "none" / "model_index.json").write_text(json.dumps({**index, "tokenizer": ["transformers", "T5Tokenizer"]}))
    with pytest.raises(ValueError, match=r"prompts are not supported; pipelines with a UNet2DModel or .* are supported"):
        load(tmp_path / "none")


@pytest.mark.parametrize("name", ["unet_micro", "dit_micro"])
def test_a_model_that_no_label_is_left_out_for_cannot_be_guided(name):
    """Its embedding of "no class" is never trained: guidance would push away from noise."""
    model = denoiser_of(name, label_dropout=0.0).model
    assert model.no_class is None
    with pytest.raises(ValueError, match="which training with label_dropout gives"):
        sample_images(
            model, scheduler=model.scheduler, shape=(1, 8, 8), num_images=2, num_steps=2, labels=torch.tensor([0, 1]),
            no_class=model.no_class, guidance_scale=2.0,
        )  # fmt: skip


def test_settings_of_classes_that_would_do_nothing_are_refused():
    with pytest.raises(ValidationError, match="class_conditional: true, or leave it out"):
        DiffusionSettings(**TINY_DENOISER, label_dropout=0.2)
    with pytest.raises(ValidationError, match="brings its own network"):
        LoadDiffusionSettings(data=DIGITS, pipeline="x", class_conditional=True)
    for arguments in ({"num_embeds_ada_norm": 10}, {"class_embed_type": "timestep"}):
        with pytest.raises(ValueError, match="set class_conditional: true instead"):
            find_denoiser("dit_micro", arguments, input_spec=SPEC, num_timesteps=10, schedule="linear")

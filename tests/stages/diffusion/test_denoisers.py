"""Denoisers as models: they travel in the same bundle as classifiers, and the one loop trains them by the diffusion loss."""

from __future__ import annotations

import json

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from stages.data.base import Batch, load_dataset
from stages.data.settings import DigitsData
from stages.finetune.settings import DiffusionFinetuneSettings, FinetuneSettings
from stages.finetune.training import finetune_classifier, finetune_denoiser
from stages.models.bundle import build_bundle, load_bundle, save_bundle
from stages.models.denoisers import find_denoiser
from stages.models.zoo import Architecture, find_architecture
from stages.ops.input_spec import InputSpec
from stages.pretrain.diffusion_load import load_diffusion
from stages.pretrain.diffusion_settings import LoadDiffusionSettings
from stages.training.settings import TrainingSettings
from stages.training.tasks.base import find_task
from stages.training.tasks.denoising import TASK
from tests.stages.diffusion.conftest import DIGITS
from tests.stages.stage_calls import artifact_of, context_in

SPEC = InputSpec(channels=1, height=16, width=16, mean=(0.5,), std=(0.5,))


def denoiser_of(name: str, **arguments):
    return build_bundle(find_denoiser(name, arguments, input_spec=SPEC, num_timesteps=100, schedule="linear"), seed=0)


@pytest.mark.parametrize("name", ["unet_micro", "dit_micro"])
def test_a_denoiser_travels_in_a_bundle_and_gives_the_same_prediction(name, tmp_path):
    bundle = denoiser_of(name)
    save_bundle(bundle, tmp_path)
    loaded = load_bundle(tmp_path)
    images, timesteps = torch.randn(3, 1, 16, 16), torch.tensor([0, 50, 99])
    with torch.no_grad():
        expected = bundle.model.eval()(images, timesteps)
        assert torch.equal(loaded.model(images, timesteps), expected)
        assert not torch.equal(expected, bundle.model(images, timesteps.flip(0))), "the timestep means nothing"
    assert expected.shape == images.shape
    assert json.loads((tmp_path / "model.json").read_text())["architecture"]["task"] == "denoising"
    assert loaded.architecture == bundle.architecture


def test_descriptions_of_classifiers_stay_as_they_were_before_there_were_tasks(tmp_path):
    """Another byte in model.json would give every classifier another digest."""
    bundle = build_bundle(find_architecture("cnn_micro", {}, input_spec=SPEC, class_names=("a", "b")), seed=0)
    save_bundle(bundle, tmp_path)
    written = json.loads((tmp_path / "model.json").read_text())["architecture"]
    assert sorted(written) == ["arguments", "builder", "class_names", "input_spec", "name"]
    assert Architecture.model_validate(written).task == "classification"


@pytest.mark.parametrize(("task", "classes"), [("classification", ()), ("image_to_image", ("a",))])
def test_classes_are_those_of_a_classifier(task, classes):
    with pytest.raises(ValidationError, match="classes"):
        Architecture(builder="own", name="cnn_micro", input_spec=SPEC, class_names=classes, task=task)


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("unet_mikro", {}, "Did you mean unet_micro"),
        ("unet_micro", {"widths": [1]}, "unknown model_args"),
        ("unet_micro", {"in_channels": 3}, "follow from the data"),
        ("unet_micro", {"norm_num_groups": 7}, "refuses the arguments"),
    ],
)
def test_a_denoiser_that_cannot_be_built_is_refused_with_the_reason(name, arguments, said):
    with pytest.raises(ValueError, match=said):
        denoiser_of(name, **arguments)


def test_the_objective_is_the_error_of_the_noise_that_was_mixed_in():
    """Algorithm 1 of the paper: a forward pass that gives the noise back has loss 0, one that gives zeros about 1."""
    model = denoiser_of("dit_micro").model
    objective = TASK.objective(model, TrainingSettings(data="digits"))
    images = torch.rand(256, 1, 16, 16) * 2 - 1
    kept = model.scheduler.alphas_cumprod
    assert torch.allclose(kept, torch.cumprod(1 - torch.linspace(1e-4, 0.02, 100), 0)), "the linear schedule"

    def knows(noisy, timesteps):
        share = kept[timesteps].reshape(-1, 1, 1, 1)
        return (noisy - share.sqrt() * images) / (1 - share).sqrt()

    assert objective(knows, images, None) < 1e-6
    assert objective(lambda noisy, _: torch.zeros_like(noisy), images, None) == pytest.approx(1.0, abs=0.02)


def test_training_lowers_the_error_and_every_model_is_measured_on_the_same_noise(trained, tmp_path):
    result, denoiser = trained
    data = load_dataset(DigitsData(scaling="symmetric"))
    model = load_bundle(denoiser).model
    scores = [TASK.evaluate(model, data.test).value for _ in range(2)]
    assert scores == [result.metrics["noise_mse"]] * 2
    assert result.metrics["noise_mse"] < 0.6
    assert "top1_accuracy" not in result.metrics
    settings = DiffusionFinetuneSettings(data=DIGITS, epochs=2)
    further = finetune_denoiser(context_in(tmp_path, settings, model=denoiser))
    assert further.metrics["noise_mse"] < result.metrics["noise_mse"]
    assert load_bundle(artifact_of(tmp_path / "output")).architecture.task == "denoising"


def test_inputs_for_calibration_cover_the_whole_schedule_and_follow_from_the_seed():
    model = denoiser_of("dit_micro").model
    images = torch.zeros(50, 1, 16, 16)
    batch = Batch(images, torch.zeros(50, dtype=torch.int64))
    noisy, timesteps = TASK.inputs(model, batch, seed=3)
    again = TASK.inputs(model, batch, seed=3)
    assert torch.equal(noisy, again[0])
    assert torch.equal(timesteps, again[1])
    assert not torch.equal(timesteps, TASK.inputs(model, batch, seed=4)[1])
    assert sorted(timesteps.tolist())[:: len(images) - 1] == [0, 99]


def test_models_for_another_task_are_refused_by_name(denoiser, tmp_path):
    with pytest.raises(ValueError, match="takes models for classification; unet_micro is one for denoising"):
        finetune_classifier(context_in(tmp_path / "a", FinetuneSettings(data=DIGITS, epochs=1), model=denoiser))
    with pytest.raises(ValueError, match="known: classification, denoising"):
        find_task("segmentation")


def test_a_setting_that_means_nothing_to_denoising_is_refused():
    model = denoiser_of("dit_micro").model
    with pytest.raises(ValueError, match="label_smoothing"):
        TASK.objective(model, TrainingSettings(data="digits", label_smoothing=0.2))


@pytest.mark.parametrize(("size", "scaling"), [(8, "standard"), (16, "symmetric"), (32, "symmetric")])
def test_digits_come_larger_and_between_minus_one_and_one(size, scaling):
    source = DigitsData(size=size, scaling=scaling)
    data = load_dataset(source)
    assert data.train.images.shape == (1347, 1, size, size)
    assert data.input_spec.shape == (1, size, size)
    if scaling == "symmetric":
        assert float(data.train.images.min()) == -1
        assert float(data.train.images.max()) == 1
    else:
        assert source.identity() == DigitsData().identity()


@pytest.fixture
def pipeline(tmp_path):
    """A pipeline of diffusers with random weights, as its users save it."""
    import diffusers

    network = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=50, beta_schedule="linear", prediction_type="v_prediction")
    found = diffusers.DDPMPipeline(unet=network, scheduler=scheduler)
    found.save_pretrained(tmp_path / "pipeline")
    return found, tmp_path / "pipeline"


def test_the_denoiser_of_a_diffusers_pipeline_becomes_a_model(pipeline, tmp_path):
    original, folder = pipeline
    settings = LoadDiffusionSettings(data=DIGITS, pipeline=str(folder))
    result = load_diffusion(context_in(tmp_path, settings))
    bundle = load_bundle(artifact_of(tmp_path / "output"))
    images, timesteps = torch.randn(2, 1, 8, 8), torch.tensor([3, 40])
    with torch.no_grad():
        expected = original.unet.eval()(images, timesteps).sample
        assert torch.allclose(bundle.model(images, timesteps), expected, atol=1e-6)
    assert bundle.model.scheduler.config.num_train_timesteps == 50
    assert bundle.model.scheduler.config.prediction_type == "v_prediction"
    assert result.metrics["noise_mse"] > 0
    before = settings.data_identity()
    moved = folder.rename(tmp_path / "elsewhere")
    assert LoadDiffusionSettings(data=DIGITS, pipeline=str(moved)).data_identity() == before


def test_a_pipeline_that_does_not_fit_or_could_run_code_is_refused(pipeline, tmp_path):
    _, folder = pipeline
    large = LoadDiffusionSettings(data={**DIGITS, "size": 16}, pipeline=str(folder))
    with pytest.raises(ValueError, match=r"1 channels of 8x8.*data have 1 of 16x16"):
        load_diffusion(context_in(tmp_path / "large", large))
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    fitting = LoadDiffusionSettings(data=DIGITS, pipeline=str(folder))
    state = load_file(weights)
    del state["conv_in.bias"]
    save_file(state, weights)
    with pytest.raises(ValueError, match=r"safetensors lacks tensors of the UNet2DModel, or has others: conv_in\.bias"):
        load_diffusion(context_in(tmp_path / "gap", fitting))
    weights.unlink()
    with pytest.raises(ValueError, match=r"there is no unet/diffusion_pytorch_model\.safetensors or"):
        LoadDiffusionSettings(data=DIGITS, pipeline=str(folder)).data_identity()
    ran = tmp_path / "ran"
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch " + str(ran).encode() + b"'\ntR.")
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model\.bin"):
        load_diffusion(context_in(tmp_path / "bin", LoadDiffusionSettings(data=DIGITS, pipeline=str(folder))))
    assert not ran.exists()
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="its unet is a UNet2DConditionModel; pipelines with a UNet2DModel"):
        load_diffusion(context_in(tmp_path / "text", LoadDiffusionSettings(data=DIGITS, pipeline=str(folder))))
    with pytest.raises(ValidationError, match="set one of pipeline"):
        LoadDiffusionSettings(data=DIGITS)

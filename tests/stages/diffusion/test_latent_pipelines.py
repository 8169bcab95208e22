"""Latent diffusion: images are encoded once, the denoiser of the same pipeline takes them, what it draws is decoded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from orchestrator import api
from orchestrator.workflow.check import check_workflow
from orchestrator.workflow.load import load_text
from stages.contract import Artifact
from stages.data.base import load_dataset
from stages.data.encode import encode
from stages.data.latents import encoded, stored
from stages.data.pack import pack
from stages.data.settings import DigitsData, EncodeSettings, PackedData, PackSettings, ParquetData
from stages.data.shard_writer import ShardWriter, write_manifest
from stages.data.shards import MANIFEST_FILE, Manifest
from stages.evaluate.diffusion import run as evaluate
from stages.evaluate.diffusion_settings import DiffusionSettings as EvaluationSettings
from stages.export import onnx
from stages.export.settings import ONNXSettings
from stages.models.bundle import build_bundle, load_bundle, save_bundle
from stages.models.denoisers import find_denoiser
from stages.models.diffusion_sampler import sample_from_onnx, sample_images
from stages.models.zoo import find_architecture
from stages.ops.autoencoder import open_autoencoder
from stages.ops.input_spec import InputSpec, latent_spec
from stages.pretrain.diffusion_load import load_diffusion
from stages.pretrain.diffusion_settings import LoadDiffusionSettings
from tests.stages.diffusion.conftest import DIGITS
from tests.stages.stage_calls import artifact_of, context_in

PIXELS = InputSpec(channels=1, height=8, width=8, mean=(0.3,), std=(0.4,))
NAMES = tuple(str(digit) for digit in range(10))
BLOCKS = {"block_out_channels": (4, 8), "layers_per_block": 1, "norm_num_groups": 2}
CODER = {
    "in_channels": 1,
    "out_channels": 1,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    **BLOCKS,
}


def autoencoder_of(kind: str, **more):
    import diffusers

    torch.manual_seed(0)
    if kind == "AutoencoderTiny":
        blocks = {"encoder_block_out_channels": (4, 4), "decoder_block_out_channels": (4, 4)}
        counts = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
        return diffusers.AutoencoderTiny(in_channels=1, out_channels=1, latent_channels=4, **blocks, **counts, **more).eval()
    own = {"latent_channels": 3, "num_vq_embeddings": 16} if kind == "VQModel" else {"latent_channels": 4}
    return getattr(diffusers, kind)(**CODER, **own, **more).eval()


@pytest.fixture(scope="module")
def dit_pipeline(tmp_path_factory):
    """A class-conditional latent pipeline with random weights, as the published DiT is one: 8x8 pixels, latents of 4x4x4."""
    import diffusers

    coder = autoencoder_of("AutoencoderKL", scaling_factor=0.5)
    network = diffusers.DiTTransformer2DModel(
        sample_size=4, in_channels=4, out_channels=8, num_embeds_ada_norm=10, num_attention_heads=2, attention_head_dim=8,
        num_layers=2,
    )  # fmt: skip
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=50, clip_sample=False)
    folder = tmp_path_factory.mktemp("dit") / "pipeline"
    diffusers.DiTPipeline(transformer=network, vae=coder, scheduler=scheduler).save_pretrained(folder)
    return folder, coder


@pytest.fixture(scope="module")
def latents(dit_pipeline, tmp_path_factory) -> Artifact:
    """The digits, encoded."""
    folder = tmp_path_factory.mktemp("latents")
    settings = EncodeSettings(data=DIGITS, pipeline=str(dit_pipeline[0]), rows_per_group=64, shard_bytes=100_000)
    encode(context_in(folder, settings))
    return artifact_of(folder / "output", kind="dataset")


@pytest.fixture(scope="module")
def dense(dit_pipeline, latents, tmp_path_factory) -> Artifact:
    """The pipeline's denoiser."""
    folder = tmp_path_factory.mktemp("dense")
    load_diffusion(context_in(folder, load_settings(dit_pipeline[0]), data=latents))
    return artifact_of(folder / "output")


def load_settings(folder: Path) -> LoadDiffusionSettings:
    return LoadDiffusionSettings(data={"name": "packed"}, pipeline=str(folder))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    spec = InputSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.5,))
    folder = tmp_path_factory.mktemp("classifier")
    save_bundle(build_bundle(find_architecture("cnn_micro", {}, input_spec=spec, class_names=NAMES), seed=0), folder)
    return artifact_of(folder)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("AutoencoderKL", {"scaling_factor": 0.5, "shift_factor": 0.1}),
        ("AutoencoderKL", {"latents_mean": [0.1, 0.0, 0.0, -0.2], "latents_std": [1.0, 2.0, 0.5, 1.0]}),
        ("AutoencoderTiny", {}),
        ("VQModel", {"scaling_factor": 0.7}),
    ],
)
def test_an_autoencoder_gives_what_diffusers_gives_scaled_as_its_settings_say(kind, settings, tmp_path):
    network = autoencoder_of(kind, **settings)
    network.save_pretrained(tmp_path)
    coder = open_autoencoder(tmp_path, pixels=PIXELS)
    images = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        found = network.encode(images * 2 - 1)
        plain = found.latent_dist.mean if kind == "AutoencoderKL" else found.latents
        mean = torch.tensor(settings.get("latents_mean") or [settings.get("shift_factor", 0.0)]).reshape(1, -1, 1, 1)
        std = torch.tensor(settings.get("latents_std") or [1.0]).reshape(1, -1, 1, 1)
        expected = (plain - mean) / std * network.config.scaling_factor
        latents = coder.encode((images - 0.3) / 0.4)
        assert torch.allclose(latents, expected, atol=1e-5)
        assert coder.latents == latent_spec(*expected.shape[1:])
        again = (network.decode(plain).sample / 2 + 0.5).clamp(0, 1)
        assert torch.allclose(coder.decode(latents) * 0.4 + 0.3, again, atol=1e-4)


def test_encoded_data_are_the_latents_of_all_images_with_their_labels(dit_pipeline, latents):
    images = load_dataset(DigitsData(scaling="symmetric"))
    data = load_dataset(PackedData(), artifact=latents)
    assert data.input_spec == latent_spec(4, 4, 4)
    assert data.class_names == images.class_names
    assert len([name for name in latents.files if name.startswith("train-")]) > 1
    with torch.no_grad():
        expected = dit_pipeline[1].encode(images.test.images).latent_dist.mean * 0.5
    batches = list(data.test.batches(batch_size=100))
    found, labels = torch.cat([batch.images for batch in batches]), torch.cat([batch.labels for batch in batches])
    assert torch.equal(labels, data.test.labels)

    def in_order(values, classes):
        rows = torch.cat([classes[:, None].float(), values.flatten(1)], dim=1)
        return rows[torch.argsort(rows[:, 1])]

    assert torch.allclose(in_order(found, labels), in_order(expected, images.test.labels), atol=1e-5)
    on_the_way = encoded(images, open_autoencoder(dit_pipeline[0], pixels=images.input_spec))
    assert torch.allclose(next(iter(on_the_way.test.batches(batch_size=450))).images, expected, atol=1e-5)


def test_a_folder_of_latents_is_read_like_one_of_images(latents, tmp_path):
    for name, path in latents.files.items():
        shutil.copy(path, tmp_path / name)
    source = ParquetData(path=str(tmp_path), num_workers=1, evaluate_on="validation")
    one, other = (load_dataset(found) for found in (source, source.model_copy(update={"num_workers": 0})))
    drawn = {"batch_size": 64, "shuffle_seed": 3, "first_batch": 2}
    first, second = (next(iter(data.train.batches(**drawn))) for data in (one, other))
    assert torch.equal(first.images, second.images)
    assert one.train.num_samples + one.test.num_samples == 1347
    assert source.stand_in() is None
    assert ParquetData(path=str(tmp_path / "nothing"), image_size=8).stand_in()["height"] == 8
    with pytest.raises(ValueError, match="augment, image_size: without effect on latents"):
        load_dataset(ParquetData(path=str(tmp_path), image_size=8, augment={"flip": 0.5}))
    with pytest.raises(ValueError, match=r"latents, which data\.encode has packed already"):
        pack(context_in(tmp_path / "again", PackSettings(data={"name": "parquet", "path": str(tmp_path)})))


@pytest.mark.parametrize("shape", [(2, 4, 4), (4, 4, 8), (4, 4, 5)])
def test_latents_of_another_shape_than_the_manifest_says_are_refused(shape, tmp_path):
    """Else a batch would have twice as many latents as labels, or half of them."""
    writer = ShardWriter(tmp_path, "train", settings=PackSettings(data="digits"))
    for row in stored(torch.randn(10, 4, 4, 4), torch.arange(10) % 2, ("a", "b"), first=0):
        writer.add(row)
    writer.close()
    write_manifest(Manifest(classes=("a", "b"), splits={"train": tuple(writer.shards)}, latents=shape), tmp_path)
    data = load_dataset(ParquetData(path=str(tmp_path), evaluate_on="validation"))
    with pytest.raises(ValueError, match=r"has 256 bytes; latents of .* have .*write them anew with data\.encode"):
        next(iter(data.train.batches(batch_size=4)))


def test_a_latent_pipeline_by_class_is_compressed_and_drawn_from_through_the_engine(dit_pipeline, tmp_path):
    folder = tmp_path / "pipeline"
    shutil.copytree(dit_pipeline[0], folder)
    packed = {"name": "packed"}

    def run(place: Path):
        nodes = {
            "latents": {"stage": "data.encode", "params": {"data": DIGITS, "pipeline": str(place)}},
            "dense": {
                "stage": "pretrain.load_diffusion",
                "inputs": {"data": "latents"},
                "params": {"data": packed, "pipeline": str(place)},
            },
            "sparse": {
                "stage": "sparsify.lbc",
                "inputs": {"model": "dense", "data": "latents"},
                "params": {"data": packed, "epochs": 2, "learning_rate": 0.001, "shift_pixels": 0},
            },
            "rounded": {
                "stage": "quantize.ptq",
                "inputs": {"model": "sparse", "data": "latents"},
                "params": {"data": packed, "calibration_samples": 64, "timestep_groups": 2},
            },
            "classifier": {"stage": "pretrain.classifier", "params": {"model": "cnn_micro", "data": DIGITS, "epochs": 1}},
            "drawn": {
                "stage": "evaluate.diffusion",
                "inputs": {"model": "rounded", "classifier": "classifier"},
                "params": {
                    "data": DIGITS, "autoencoder": str(place), "num_samples": 20, "num_steps": 2, "grid_side": 2,
                    "guidance_scale": 2.0,
                },
            },
        }  # fmt: skip
        content = {"version": 1, "name": "latent", "nodes": nodes}
        workspace = api.open_workspace(str(tmp_path / "store"))
        plan = api.plan_checked(check_workflow(load_text(json.dumps(content), file="latent.yaml")), workspace=workspace)
        return api.submit(plan, workspace=workspace, executor="inline"), plan, workspace

    result, plan, workspace = run(folder)
    states = {name: node.state for name, node in result.status.nodes.items()}
    assert states == dict.fromkeys(states, "done"), {name: node.trace for name, node in result.status.nodes.items()}

    def record(stage: str, node: str):
        return workspace.artifacts.find(stage, plan.nodes[node].key)

    latents = record("data.encode", "latents").metrics
    assert (latents["channels"], latents["height"], latents["num_train"], latents["num_test"]) == (4, 4, 1347, 450)
    assert latents["reconstruction_psnr_db"] > 0
    assert record("sparsify.lbc", "sparse").metrics["nm_valid"] is True
    drawn = record("evaluate.diffusion", "drawn")
    assert 0 <= drawn.metrics["class_accuracy"] <= 1
    assert drawn.metrics["frechet_distance"] > drawn.metrics["frechet_distance_real"]
    assert 0 < drawn.metrics["noise_mse"] < 2
    assert drawn.measurements["decoding_seconds_per_image"] > 0
    assert "orchestrator" not in json.dumps(drawn.metrics)
    moved = folder.rename(tmp_path / "elsewhere")
    result, *_ = run(moved)
    assert {node.state for node in result.status.nodes.values()} == {"hit"}
    weights = moved / "vae" / "config.json"
    weights.write_text(json.dumps({**json.loads(weights.read_text()), "scaling_factor": 0.6}))
    assert (
        EncodeSettings(data=DIGITS, pipeline=str(moved)).data_identity()
        != EncodeSettings(data=DIGITS, pipeline=str(dit_pipeline[0])).data_identity()
    )


def test_drawn_latents_are_decoded_before_anybody_sees_them(dense, dit_pipeline, classifier, tmp_path, monkeypatch):
    """Latents of 40 real images stand for drawn ones: their grid and their distance are those of the images, decoded."""
    from stages.evaluate import diffusion

    images = load_dataset(DigitsData(scaling="symmetric")).test.images[:40]
    coder = open_autoencoder(dit_pipeline[0], pixels=load_dataset(DigitsData(scaling="symmetric")).input_spec)
    monkeypatch.setattr(diffusion, "sample_images", lambda _predict, *, shape, **_: coder.encode(images).reshape(40, *shape))
    shown = []
    monkeypatch.setattr(diffusion, "write_grid", lambda drawn, path, **_: (shown.append(drawn), path.touch()))
    settings = EvaluationSettings(data=DIGITS, autoencoder=str(dit_pipeline[0]), num_samples=40, grid_side=2)
    found = evaluate(context_in(tmp_path, settings, model=dense, classifier=classifier))
    decoded = coder.decode(coder.encode(images))
    order = torch.argsort(torch.arange(4) % 10, stable=True)
    assert torch.allclose(shown[0], decoded[:4][order], atol=1e-5)
    seen = diffusion.see_images(load_bundle(classifier).model, decoded)
    expected = float((seen.classes == torch.arange(40) % 10).double().mean())
    assert found.metrics["class_accuracy"] == expected
    assert "autoencoder" in json.loads((tmp_path / "output" / "evaluation.json").read_text())


def test_an_exported_denoiser_takes_labels_and_draws_images_with_guidance_and_the_autoencoder(
    dense, latents, dit_pipeline, classifier, tmp_path
):
    settings = ONNXSettings(data={"name": "packed"}, verify_samples=4)
    exported = onnx.run(context_in(tmp_path, settings, model=dense, data=latents))
    assert exported.metrics["max_relative_difference"] < 1e-4
    folder, model, place = tmp_path / "output", load_bundle(dense).model, dit_pipeline[0]
    description = json.loads((folder / "export.json").read_text())
    assert description["labels"] == {
        "name": "labels", "shape": ["batch"], "type": "int64", "classes": list(NAMES), "no_class": 10
    }  # fmt: skip
    how = (folder / "SAMPLING.md").read_text()
    assert "guidance_scale" in how
    assert "autoencoder=Path(PIPELINE)" in how
    given = {"num_images": 3, "num_steps": 3, "seed": 4, "guidance_scale": 3.0}
    asked = {"labels": torch.tensor([7, 7, 1]), "no_class": 10}
    expected = sample_images(model, scheduler=model.scheduler, shape=(4, 4, 4), **given, **asked)
    drawn = sample_from_onnx(folder, **given, labels=[7, 7, 1])
    assert torch.allclose(drawn, expected, atol=1e-3)
    assert not torch.allclose(drawn, sample_from_onnx(folder, **given), atol=1e-3), "all classes in turn"
    images = sample_from_onnx(folder, **given, labels=[7, 7, 1], autoencoder=place)
    with torch.no_grad():
        decoded = dit_pipeline[1].decode(drawn / 0.5).sample
    assert torch.allclose(images, (decoded / 2 + 0.5).clamp(0, 1), atol=1e-4)
    with pytest.raises(ValueError, match="3 labels from 0 to 9"):
        sample_from_onnx(folder, **given, labels=[10, 0, 0])
    settings = EvaluationSettings(data=DIGITS, num_samples=32, num_steps=3, autoencoder=str(place), guidance_scale=2.0)
    file = artifact_of(folder, kind="exported")
    by_file = evaluate(context_in(tmp_path / "f", settings, model=dense, classifier=classifier, exported=file)).metrics
    by_model = evaluate(context_in(tmp_path / "m", settings, model=dense, classifier=classifier)).metrics
    assert by_file["frechet_distance"] == pytest.approx(by_model["frechet_distance"], rel=1e-3)
    assert by_file["class_accuracy"] == pytest.approx(by_model["class_accuracy"], abs=0.07)


def test_a_pipeline_without_classes_in_latents_becomes_a_model(tmp_path):
    """LDM: a VQModel under the name vqvae, and a U-Net; its schedule does not say whether to clip, and latents must not be."""
    import diffusers

    network = diffusers.UNet2DModel(
        sample_size=4, in_channels=3, out_channels=3, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        attention_head_dim=4, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    scheduler = diffusers.PNDMScheduler(num_train_timesteps=50)
    folder = tmp_path / "pipeline"
    diffusers.LDMPipeline(vqvae=autoencoder_of("VQModel"), unet=network, scheduler=scheduler).save_pretrained(folder)
    encode(context_in(tmp_path / "latents", EncodeSettings(data=DIGITS, pipeline=str(folder))))
    latents = artifact_of(tmp_path / "latents" / "output", kind="dataset")
    load_diffusion(context_in(tmp_path / "model", load_settings(folder), data=latents))
    bundle = load_bundle(artifact_of(tmp_path / "model" / "output"))
    assert bundle.architecture.input_spec == latent_spec(3, 4, 4)
    assert bundle.architecture.class_names == ()
    assert bundle.model.scheduler.config.clip_sample is False
    values = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        assert torch.allclose(bundle.model(values, torch.tensor([1, 30])), network.eval()(values, torch.tensor([1, 30])).sample)


def test_a_denoiser_of_latents_from_initial_weights_does_not_clip_them():
    given = {"num_timesteps": 10, "schedule": "cosine"}
    of_latents = find_denoiser("dit_micro", {}, input_spec=latent_spec(4, 4, 4), **given)
    assert of_latents.arguments["scheduler"]["clip_sample"] is False
    assert "clip_sample" not in find_denoiser("dit_micro", {}, input_spec=PIXELS, **given).arguments["scheduler"]
    assert "values" not in PIXELS.model_dump()
    assert InputSpec.model_validate(latent_spec(4, 4, 4).model_dump(mode="json")) == latent_spec(4, 4, 4)


def test_pixels_and_latents_that_do_not_belong_together_are_refused_with_the_next_step(
    dit_pipeline, dense, latents, classifier, tmp_path
):
    folder = dit_pipeline[0]
    with pytest.raises(ValueError, match=r"draws latents.*data.encode node \(pipeline: this folder\)"):
        load_diffusion(context_in(tmp_path, LoadDiffusionSettings(data=DIGITS, pipeline=str(folder))))
    plain = EvaluationSettings(data=DIGITS, num_samples=4, num_steps=1)
    with pytest.raises(ValueError, match=r"set autoencoder in evaluate\.diffusion"):
        evaluate(context_in(tmp_path, plain, model=dense, classifier=classifier))
    packed = EvaluationSettings(data={"name": "packed"}, num_samples=4, num_steps=1)
    with pytest.raises(ValueError, match="name the images that they were made of"):
        evaluate(context_in(tmp_path, packed, model=dense, classifier=classifier, data=latents))
    again = EncodeSettings(data={"name": "packed"}, pipeline=str(folder))
    with pytest.raises(ValueError, match="latents already"):
        encode(context_in(tmp_path, again, data=latents))
    colour = EncodeSettings(data={"name": "synthetic", "channels": 3}, pipeline=str(folder))
    with pytest.raises(ValueError, match="takes 1 channels; the data have 3"):
        encode(context_in(tmp_path, colour))
    odd = EncodeSettings(data={"name": "synthetic", "height": 9, "width": 9}, pipeline=str(folder))
    with pytest.raises(ValueError, match="makes 8x8 of images of 9x9"):
        encode(context_in(tmp_path, odd))
    with pytest.raises(ValueError, match="augment: without effect here"):
        EncodeSettings(data={"name": "folder", "path": "x", "augment": {"flip": 0.5}}, pipeline=str(folder))


def test_folders_without_a_usable_autoencoder_are_refused_with_what_is_supported(dit_pipeline, tmp_path):
    def identity(folder):
        return EncodeSettings(data=DIGITS, pipeline=str(folder)).data_identity()

    with pytest.raises(ValueError, match=r"neither model_index\.json nor config\.json"):
        identity(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps({"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}))
    with pytest.raises(ValueError, match=r"\(DDPMPipeline\) has no autoencoder: none of vae, vqvae, movq"):
        identity(tmp_path)
    index.write_text(json.dumps({"vae": ["diffusers", "AutoencoderDC"]}))
    with pytest.raises(ValueError, match="is of class AutoencoderDC; supported: AutoencoderKL, AutoencoderTiny, VQModel"):
        identity(tmp_path)
    index.write_text(json.dumps({"vae": ["diffusers", "AutoencoderKL"], "tokenizer": ["transformers", "CLIPTokenizer"]}))
    with pytest.raises(ValueError, match=r"there is no vae/config\.json"):
        identity(tmp_path)
    shutil.copytree(dit_pipeline[0] / "vae", tmp_path / "vae")
    assert identity(tmp_path) == identity(dit_pipeline[0]), "of a text-to-image pipeline, too"
    weights = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="diffusion_pytorch_model"):
        encode(context_in(tmp_path / "run", EncodeSettings(data=DIGITS, pipeline=str(tmp_path))))
    assert not (tmp_path / "run" / "output" / MANIFEST_FILE).exists()

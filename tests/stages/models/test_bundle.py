"""A model travels between stages through two files and comes out as it went in."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from stages.contract import Artifact
from stages.models import transforms
from stages.models.bundle import ModelBundle, apply_transform, build_bundle, fold_bundle, load_bundle, save_bundle
from stages.models.zoo import OWN, find_architecture
from stages.ops.input_spec import InputSpec

SPEC = InputSpec(channels=1, height=8, width=8, mean=(0.0,), std=(1.0,))
DIGITS = tuple("0123456789")


class Doubling:
    """A transform whose structure is one buffer: outputs are multiplied by it."""

    name, version, order = "doubling", 2, transforms.SPARSE_MASK

    def attach(self, model, settings):
        model.register_buffer("factor", torch.tensor(float(settings["factor"])))
        model.register_forward_hook(self.multiply)

    @staticmethod
    def multiply(model, inputs, output):
        return output * model.factor if hasattr(model, "factor") else output

    def fold(self, model):
        with torch.no_grad():
            model.head.weight.mul_(model.factor)
            model.head.bias.mul_(model.factor)
        del model.factor


class Later(Doubling):
    name, order = "later", transforms.TOKEN_REDUCTION

    def attach(self, model, settings):
        pass


DOUBLING, LATER = Doubling(), Later()


@pytest.fixture(autouse=True)
def known_transforms(monkeypatch):
    monkeypatch.setitem(transforms.REGISTRY, "doubling", f"{__name__}:DOUBLING")
    monkeypatch.setitem(transforms.REGISTRY, "later", f"{__name__}:LATER")


def micro(name="cnn_micro", seed=0):
    return build_bundle(find_architecture(name, {}, input_spec=SPEC, class_names=DIGITS), seed=seed)


@pytest.mark.parametrize("name", ["cnn_micro", "vit_micro", "resnet10t"])
def test_a_saved_model_comes_back_bit_for_bit(tmp_path, name):
    """Every stage stands on this: what one stage trained is what the next one gets."""
    bundle = micro(name)
    bundle.model.train()(torch.randn(4, 1, 8, 8))  # moves the batch-norm statistics
    size = save_bundle(bundle, tmp_path)
    loaded = load_bundle(tmp_path)
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(loaded.model(images), bundle.model.eval()(images))
    assert not loaded.model.training
    assert loaded.architecture == bundle.architecture
    assert size == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_a_model_is_loaded_from_an_artifact(tmp_path):
    bundle = micro()
    save_bundle(bundle, tmp_path)
    files = {path.name: path for path in tmp_path.iterdir()}
    loaded = load_bundle(Artifact(kind="model", key="k" * 64, files=files))
    assert torch.equal(loaded.model.head.weight, bundle.model.head.weight)


def test_saving_twice_gives_the_same_bytes_and_the_safetensors_library_reads_them(tmp_path):
    """Content digests compare artifacts of two machines, so no byte may depend on the process."""
    bundle = micro()
    for name in ("first", "second"):
        save_bundle(bundle, tmp_path / name)
    for file in ("model.json", "weights.safetensors"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
    read = load_file(tmp_path / "first" / "weights.safetensors")
    assert read.keys() == bundle.model.state_dict().keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in bundle.model.state_dict().items())


def test_the_micro_models_have_the_published_sizes():
    """Our rows stand beside those of other tools on the same two models."""
    assert sum(parameter.numel() for parameter in micro("vit_micro").model.parameters()) == 136_138
    assert sum(parameter.numel() for parameter in micro("cnn_micro").model.parameters()) == 28_490
    assert micro("vit_micro").model.pos_embed.shape[1] == 17


def test_the_seed_alone_decides_the_initial_weights():
    """Also torch's own random state stays as it was: building a model must not disturb a training run."""
    before = torch.get_rng_state()
    first, second, other = micro(seed=1), micro(seed=1), micro(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.model.head.weight, second.model.head.weight)
    assert not torch.equal(first.model.head.weight, other.model.head.weight)


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path):
    bundle = micro()
    bundle.model.head.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"head\.weight"):
        save_bundle(bundle, tmp_path)
    assert not (tmp_path / "weights.safetensors").exists()


def test_weights_of_another_model_are_refused_by_name(tmp_path):
    save_bundle(micro(), tmp_path)
    description = json.loads((tmp_path / "model.json").read_text())
    description["architecture"]["arguments"] = {"widths": [32, 40, 32]}
    (tmp_path / "model.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"blocks\.1\.0\.weight is \(48, 32, 3, 3\).*expected \(40, 32, 3, 3\)"):
        load_bundle(tmp_path)


def test_tied_tensors_are_written_once_and_come_back_tied(tmp_path, monkeypatch):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(64, 64, bias=False)
            self.second = nn.Linear(64, 64, bias=False)
            self.second.weight = self.first.weight

        def forward(self, images):
            return self.second(self.first(images.flatten(1)))

    monkeypatch.setitem(OWN, "tied", lambda spec, num_classes, arguments: Tied())
    bundle = build_bundle(find_architecture("tied", {}, input_spec=SPEC, class_names=DIGITS), seed=0)
    size = save_bundle(bundle, tmp_path)
    assert size < 64 * 64 * 4 + 1500
    loaded = load_bundle(tmp_path).model
    assert loaded.first.weight is loaded.second.weight
    assert torch.equal(loaded.first.weight, bundle.model.first.weight)


def test_a_transform_comes_back_with_its_state_and_folds_to_the_same_outputs(tmp_path):
    bundle = apply_transform(micro(), "doubling", {"factor": 2})
    bundle.model.factor.fill_(3.0)  # state, as training would leave it
    save_bundle(bundle, tmp_path)
    loaded = load_bundle(tmp_path)
    images = torch.randn(2, 1, 8, 8)
    assert loaded.has_transform("doubling")
    assert torch.equal(loaded.model(images), bundle.model.eval()(images))
    plain = fold_bundle(loaded)
    assert "factor" not in plain.state_dict()
    assert "factor" in loaded.model.state_dict()
    torch.testing.assert_close(plain(images), loaded.model(images), rtol=1e-6, atol=1e-6)


def test_transforms_that_do_not_fit_are_refused_by_name(tmp_path):
    bundle = micro()
    with pytest.raises(ValueError, match=r"unknown transform 'tripling'; known: .*nm_mask"):
        apply_transform(bundle, "tripling", {})
    with pytest.raises(ValueError, match="already carries transform 'later'"):
        apply_transform(apply_transform(bundle, "later", {}), "later", {})
    with pytest.raises(ValueError, match="'doubling' acts before 'later'"):
        apply_transform(apply_transform(micro(), "later", {}), "doubling", {"factor": 2})
    save_bundle(apply_transform(micro(), "doubling", {"factor": 2}), tmp_path)
    text = (tmp_path / "model.json").read_text().replace('"version": 2', '"version": 1')
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(ValueError, match=r"'doubling' is recorded in version 1, this release has version 2"):
        load_bundle(tmp_path)


def test_a_bundle_of_another_format_is_refused(tmp_path):
    save_bundle(micro(), tmp_path)
    (tmp_path / "model.json").write_text((tmp_path / "model.json").read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(ValueError, match="format 99"):
        load_bundle(tmp_path)


def test_a_bundle_is_frozen():
    with pytest.raises(AttributeError):
        micro().transforms = ()
    assert isinstance(micro(), ModelBundle)

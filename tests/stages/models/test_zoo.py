"""Models by name: found, built for the data's shape, or refused with a hint."""

import socket
import subprocess
import sys

import pytest
import torch
from torch import nn

from stages.models.weights import load_named
from stages.models.zoo import ResidualBlock, build_network, find_architecture
from stages.ops.counting import count_compute
from stages.ops.input_spec import InputSpec


def spec(channels=1, height=8, width=8):
    return InputSpec(channels=channels, height=height, width=width, mean=(0.0,) * channels, std=(1.0,) * channels)


def architecture(name, arguments=None, *, input_spec=None, num_classes=10):
    class_names = tuple(str(index) for index in range(num_classes))
    return find_architecture(name, arguments or {}, input_spec=input_spec or spec(), class_names=class_names)


def build(name, arguments=None, **data):
    return build_network(architecture(name, arguments, **data), seed=0)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet10t", {}),
        ("vit_tiny_patch16_224", {"depth": 1}),
        ("cnn_micro", {"widths": [8], "strides": [2]}),
        ("vit_micro", {}),
        ("resnet20", {}),
    ],
)
def test_a_model_takes_the_images_and_knows_the_classes_of_the_data(name, arguments):
    images = spec(channels=3, height=32, width=48)
    logits = build(name, arguments, input_spec=images, num_classes=7).eval()(torch.zeros(2, *images.shape))
    assert logits.shape == (2, 7)


def test_an_unknown_model_is_refused_with_near_names():
    with pytest.raises(ValueError, match=r"unknown model 'vit_mirco'\. Did you mean vit_micro"):
        build("vit_mirco")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vit_micro", {"depht": 3}, r"unknown model_args \['depht'\]; known: .*depth"),
        ("vit_micro", {"patch_size": 3}, "8x8 is not divisible by patch_size 3"),
        ("vit_micro", {"embed_dim": 30}, "embed_dim 30 is not divisible by num_heads 4"),
        ("cnn_micro", {"widths": [8, 8]}, "2 widths and 3 strides"),
        ("resnet20", {"widths": [16, 8, 32]}, r"widths are \[16, 8, 32\]; expected three, none smaller"),
        ("resnet20", {"depth": 20}, r"unknown model_args \['depth'\]; known: widths"),
        ("resnet10t", {"no_such": 1}, r"resnet10t: timm does not take the arguments .*'no_such'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_in_words(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(name, arguments)


class TestResNet20:
    def test_it_has_as_many_parameters_and_products_as_published(self):
        """He et al. 2016, table 6: 20 layers, 0.27 M parameters; option A adds none in its shortcuts."""
        images = spec(channels=3, height=32, width=32)
        model = build("resnet20", input_spec=images)
        assert sum(parameter.numel() for parameter in model.parameters()) == 269_722
        weights = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        assert len(weights) == 20
        assert count_compute(model.eval(), torch.zeros(1, *images.shape)).macs == 40_551_040

    @pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 5, 7), (1, 1, 1)])
    def test_it_takes_images_of_any_size(self, channels, height, width):
        images = spec(channels=channels, height=height, width=width)
        assert build("resnet20", input_spec=images).eval()(torch.zeros(2, *images.shape)).shape == (2, 10)

    def test_a_shortcut_carries_every_second_place_and_zeros_for_new_channels(self):
        block = ResidualBlock(2, 4, stride=2).eval()
        nn.init.zeros_(block.norm2.weight)
        images = torch.rand(1, 2, 5, 4)
        passed = block(images)
        assert torch.equal(passed[:, 1:3], images[:, :, ::2, ::2])
        assert not passed[:, [0, 3]].any()


def test_pretrained_weights_without_a_network_say_what_to_do(monkeypatch):
    """A cluster's nodes often have no way out; the error has to tell that from a wrong name."""

    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("timm.models._builder.load_pretrained", refuse)
    with pytest.raises(RuntimeError, match=r"resnet18.a1_in1k: its pretrained weights cannot be had \(OSError.*HF_HOME"):
        load_named(architecture("resnet18.a1_in1k", num_classes=1000), source="resnet18.a1_in1k", head="keep", seed=0)


def test_timm_imports_beside_a_cpu_build_of_torch():
    """torchvision's wheel lacks two operators there; declaring them twice must not fail either."""
    code = (
        "from stages.ops.torchvision_compat import ensure_torchvision_imports as ensure; ensure(); ensure(); "
        "import torchvision, timm; print(timm.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

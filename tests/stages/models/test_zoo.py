"""Models by name: found, built for the data's shape, or refused with a hint."""

import socket
import subprocess
import sys

import pytest
import torch

from stages.models.zoo import build_network, find_architecture
from stages.ops.input_spec import InputSpec


def spec(channels=1, height=8, width=8):
    return InputSpec(channels=channels, height=height, width=width, mean=(0.0,) * channels, std=(1.0,) * channels)


def build(name, arguments=None, *, input_spec=None, num_classes=10):
    class_names = tuple(str(index) for index in range(num_classes))
    architecture = find_architecture(name, arguments or {}, input_spec=input_spec or spec(), class_names=class_names)
    return build_network(architecture, seed=0)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet10t", {}),
        ("vit_tiny_patch16_224", {"depth": 1}),
        ("cnn_micro", {"widths": [8], "strides": [2]}),
        ("vit_micro", {}),
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
        ("resnet10t", {"no_such": 1}, r"resnet10t: timm does not take the arguments .*'no_such'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_in_words(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(name, arguments)


def test_pretrained_weights_without_a_network_say_what_to_do(monkeypatch):
    """A cluster's nodes often have no way out; the error has to tell that from a wrong name."""

    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("timm.models._builder.load_pretrained", refuse)
    with pytest.raises(RuntimeError, match=r"resnet18: the pretrained weights cannot be had \(OSError.*HF_HOME"):
        build("resnet18", {"pretrained": True})


def test_timm_imports_beside_a_cpu_build_of_torch():
    """torchvision's wheel lacks two operators there; declaring them twice must not fail either."""
    code = (
        "import stages.models.compat as compat; compat.ensure_torchvision_imports(); compat.ensure_torchvision_imports(); "
        "import torchvision, timm; print(timm.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""An architecture that another package brings goes through every kind of stage, or is refused by the name of the layer."""

import re
import sys

import pytest
import yaml

from orchestrator import api
from stages.models import zoo

CODE = '''
import torch
from torch import nn


class Mixer(nn.Module):
    """Mixes places by one linear layer and channels by another, after a convolution with groups: no timm model does that."""

    def __init__(self, spec, num_classes, width=16):
        super().__init__()
        self.stem = nn.Conv2d(spec.channels, width, 3, stride=2, padding=1)
        places = (spec.height // 2) * (spec.width // 2)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.places = nn.Linear(places, places)
        self.channels = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.out = nn.Linear(width, num_classes)

    def forward(self, images):
        features = self.depthwise(self.stem(images).relu()).flatten(2)
        features = features + self.places(features)
        features = features.transpose(1, 2)
        features = features + self.channels(features)
        return self.out(features.mean(1))


class Reader(nn.Module):
    """Reads rows with a recurrent layer, for which no stage has a form."""

    def __init__(self, spec, num_classes):
        super().__init__()
        self.lines = nn.GRU(spec.width, 16, batch_first=True)
        self.inner = nn.Linear(16, 16)
        self.out = nn.Linear(16, num_classes)

    def forward(self, images):
        return self.out(self.inner(self.lines(images.mean(1))[0][:, -1]).relu())


def mixer(spec, num_classes, arguments):
    return Mixer(spec, num_classes, **arguments)


def reader(spec, num_classes, arguments):
    return Reader(spec, num_classes)


def broken(spec, num_classes, arguments):
    return "no network"


def many(spec, num_classes, arguments):
    return nn.Sequential(nn.Flatten(), nn.Linear(spec.channels * spec.height * spec.width, num_classes + 3))


def asking(spec, num_classes, arguments):
    return nn.Linear(arguments["width"], num_classes)
'''
PRETRAIN = {"stage": "pretrain.classifier", "params": {"model": "foreign_mixer", "data": "digits", "epochs": 3}}
SPARSE = {"data": "digits", "epochs": 4, "n_m": "2:4", "removal_end": 0.5, "dense_layers": ["depthwise"]}


@pytest.fixture(scope="module", autouse=True)
def plugin(tmp_path_factory):
    """A package as pip would have installed it."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "foreign_models.py").write_text(CODE)
    about = folder / "foreign_models-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign-models\nVersion: 1.0\n")
    points = ("mixer", "reader", "broken", "many", "asking", "absent")
    lines = [f"foreign_{name} = foreign_models:{name}" for name in points]
    (about / "entry_points.txt").write_text("[orchestrator.models]\n" + "\n".join(lines) + "\n")
    sys.path.insert(0, str(folder))
    zoo._plugins.cache_clear()
    yield
    sys.path.remove(str(folder))
    zoo._plugins.cache_clear()


def text(**nodes):
    return yaml.safe_dump({"version": 1, "name": "foreign", "nodes": nodes}, sort_keys=False)


def test_a_foreign_architecture_goes_through_every_kind_of_stage(run_text):
    model = {"model": "lts"}
    nodes = {
        "pretrain": PRETRAIN,
        "lbc": {"stage": "sparsify.lbc", "inputs": {"model": "pretrain"}, "params": SPARSE},
        "lts": {"stage": "quantize.lts", "inputs": {"model": "lbc"}, "params": {"data": "digits", "epochs": 2}},
        "tune": {"stage": "finetune.classifier", "inputs": model, "params": {"data": "digits", "epochs": 1}},
        "packed": {"stage": "export.packed", "inputs": {"model": "tune"}, "params": {"data": "digits"}},
        "onnx": {"stage": "export.onnx", "inputs": {"model": "lbc"}, "params": {"data": "digits"}},
        "evaluate": {
            "stage": "evaluate.classifier",
            "inputs": {"model": "lbc", "exported": "onnx", "baseline": "pretrain"},
            "params": {"data": "digits", "latency_seconds": 0.02},
        },
    }
    result = run_text(text(**nodes))
    traces = {name: node.error or node.trace for name, node in result.status.nodes.items() if node.state == "failed"}
    assert result.state is api.State.DONE, traces
    metrics = result.status.nodes["evaluate"].metrics
    assert metrics["top1_accuracy"] > 0.3
    assert result.status.nodes["lbc"].metrics["num_sparse_layers"] == 3


@pytest.mark.parametrize(
    ("stage", "params", "words"),
    [
        ("quantize.lts", {}, r"lines is a GRU"),
        ("quantize.qat", {}, r"lines is a GRU"),
        ("sparsify.magnitude", {"n_m": "2:4"}, r"lines is a GRU.*name it in dense_layers"),
    ],
)
def test_what_no_stage_can_handle_is_refused_with_the_name_of_the_layer(run_text, stage, params, words):
    nodes = {
        "pretrain": {**PRETRAIN, "params": {**PRETRAIN["params"], "model": "foreign_reader", "epochs": 1}},
        "made": {"stage": stage, "inputs": {"model": "pretrain"}, "params": {"data": "digits", **params}},
    }
    made = run_text(text(**nodes)).status.nodes["made"]
    assert made.state == "failed"
    assert re.search(words, made.error or made.trace)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broken", "its function gave a str; expected a torch.nn.Module"),
        ("many", "its network gives (2, 13); expected a tensor of (2, 10), a logit for each class"),
        ("asking", "fails with KeyError: 'width'. It was asked for a network for images of (1, 8, 8) and 10 classes"),
        ("absent", "fails with AttributeError: module 'foreign_models' has no attribute 'absent'"),
    ],
)
def test_what_a_package_gets_wrong_is_told_with_its_name(run_text, name, words):
    pretrain = {**PRETRAIN, "params": {"model": f"foreign_{name}", "data": "digits"}}
    node = run_text(text(pretrain=pretrain)).status.nodes["pretrain"]
    assert words in (node.error or node.trace)
    assert f"foreign_{name}" in (node.error or node.trace)


def test_a_model_whose_package_is_gone_says_what_to_install(run_text, workspace, monkeypatch):
    run_text(text(pretrain=PRETRAIN))
    monkeypatch.setattr(zoo, "_plugins", dict)
    tune = {"stage": "finetune.classifier", "inputs": {"model": "pretrain"}, "params": {"data": "digits", "epochs": 1}}
    node = run_text(text(pretrain=PRETRAIN, tune=tune)).status.nodes["tune"]
    assert "Install the package that adds it (entry points orchestrator.models)" in (node.error or node.trace)

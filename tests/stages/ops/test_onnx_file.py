"""ONNX files: repeatable bytes, nothing of the machine inside, weights found again."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from stages.ops.nm import magnitude_mask, violating_blocks
from stages.ops.onnx_file import find_weight, open_session, rows_scaled_away, run_session, stored_arrays, write_onnx
from stages.ops.pattern import NMPattern


class TinyNet(nn.Module):
    """Everything that an exporter moves about: conv + batch norm, a linear layer on three axes, one on two."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 16, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(16)
        self.tokens, self.head = nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, images):
        hidden = self.norm2(self.conv(torch.relu(self.norm(self.stem(images)))))
        return self.head(self.tokens(hidden.flatten(2).transpose(1, 2)).mean(1))


def make_net() -> TinyNet:
    torch.manual_seed(0)
    net = TinyNet().eval()
    with torch.no_grad():
        for name, buffer in net.named_buffers():
            if "running" in name:
                buffer.add_(torch.rand_like(buffer))
        for layer in (net.conv, net.tokens):
            layer.weight.mul_(magnitude_mask(layer.weight, pattern=NMPattern(2, 4)))
    return net


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    write_onnx(make_net(), image_shape=(1, 6, 6), path=path, opset=18)
    return path


def test_the_file_computes_what_the_model_computes_at_any_batch_size(file):
    session, net = open_session(file, num_threads=1), make_net()
    for batch in (1, 5):
        images = torch.randn(batch, 1, 6, 6)
        torch.testing.assert_close(run_session(session, images), net(images).detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("pool", ["intra", "inter"])
def test_a_session_that_waits_for_its_turn_leaves_the_processors_alone(file, pool):
    """A pool that spins takes the cores from the rival that is timed next: one and the same file would not tie with itself."""
    options = open_session(file, num_threads=2).get_session_options()
    assert options.get_session_config_entry(f"session.{pool}_op.allow_spinning") == "0"


def test_another_process_writes_the_same_bytes(file, tmp_path):
    """A cache that compares digests must not see a new file where nothing changed."""
    code = (
        "from pathlib import Path\n"
        "from tests.stages.ops.test_onnx_file import make_net, write_onnx\n"
        f"write_onnx(make_net(), image_shape=(1, 6, 6), path=Path({str(tmp_path / 'again.onnx')!r}), opset=18)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (file, tmp_path / "again.onnx")}
    assert len(digests) == 1


def test_the_file_names_no_path_of_the_machine(file):
    content = file.read_bytes()
    root = Path(__file__).parents[3]
    for text in (str(root), str(Path.home()), ".py", "site-packages"):
        assert text.encode() not in content


@pytest.mark.parametrize("layer", ["stem", "conv", "tokens", "head"])
def test_every_weight_is_found_again_whatever_the_exporter_did_to_it(file, layer):
    """The exporter folds the batch norm into `conv` and transposes `tokens`; both still have to be checked on the file."""
    net = make_net()
    weight = net.get_submodule(layer).weight
    stored = find_weight(weight, stored_arrays(file))
    assert stored is not None
    assert stored.values.shape == tuple(weight.shape)
    if layer in ("conv", "tokens"):
        assert violating_blocks(torch.from_numpy(stored.values.copy()), pattern=NMPattern(2, 4)) == 0


def test_a_weight_that_is_not_in_the_file_is_not_found(file):
    assert find_weight(torch.randn(16, 16), stored_arrays(file)) is None


class TestZeros:
    """Zero times any row is a row of zeros: without a rule of its own it would be found wherever a weight is looked for."""

    WEIGHT = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))

    def test_an_array_of_zeros_is_not_taken_for_a_weight(self):
        zeros, weight = np.zeros((16, 8), np.float32), self.WEIGHT.numpy()
        assert find_weight(self.WEIGHT, {"zeros": zeros}) is None
        # The exporter rounds what it folds, so the weight itself is not exact, while zeros would be.
        stored = find_weight(self.WEIGHT, {"zeros": zeros, "weight": weight * np.float32(1 + 1e-7)})
        assert stored is not None
        assert stored.name == "weight"

    def test_a_row_of_zeros_is_that_of_a_weight_with_such_a_row_only(self):
        weight = self.WEIGHT.clone()
        broken = weight.numpy().copy()
        broken[3] = 0
        assert find_weight(weight, {"broken": broken}) is None
        weight[3] = 0
        found = find_weight(weight, {"broken": broken, "whole": self.WEIGHT.numpy()})
        assert found is not None
        assert found.name == "broken"

    def test_a_row_that_may_be_scaled_away_is_found_as_zeros_and_no_other_is(self):
        broken = self.WEIGHT.numpy().copy()
        broken[3] = 0
        may_go = torch.arange(16) == 3
        found = find_weight(self.WEIGHT, {"broken": broken}, scaled_away=may_go)
        assert found is not None
        assert find_weight(self.WEIGHT, {"broken": broken}, scaled_away=~may_go) is None
        both = find_weight(self.WEIGHT, {"broken": broken, "whole": self.WEIGHT.numpy()}, scaled_away=may_go)
        assert both is not None
        assert both.name == "whole"

    def test_a_weight_of_zeros_is_found(self):
        found = find_weight(torch.zeros(16, 8), {"weight": self.WEIGHT.numpy(), "zeros": np.zeros((16, 8), np.float32)})
        assert found is not None
        assert found.name == "zeros"

    def test_of_equally_close_arrays_that_with_as_many_non_zeros_is_taken(self):
        weight = torch.eye(4).double()
        near, far = weight.numpy().copy(), weight.numpy().copy()
        near[0, 1] = far[0, 1] = far[1, 2] = 1e-6
        for arrays in ({"far": far, "near": near}, {"near": near, "far": far}):
            found = find_weight(weight, arrays)
            assert found is not None
            assert found.name == "near"


def test_rows_are_scaled_away_by_the_batch_norm_that_follows_and_by_no_other():
    net = make_net()
    with torch.no_grad():
        net.norm.weight[2] = 0
        net.norm2.weight[5] = 1e-44
        net.norm2.weight[6] = 1e-20
    found = rows_scaled_away(net, image_shape=(1, 6, 6))
    assert {name: rows.nonzero()[:, 0].tolist() for name, rows in found.items()} == {"stem": [2], "conv": [5]}
    assert not net.conv._forward_hooks
    assert not net.norm2._forward_pre_hooks


def test_a_fixed_batch_takes_one_image(tmp_path):
    write_onnx(make_net(), image_shape=(1, 6, 6), path=tmp_path / "one.onnx", opset=18, dynamic_batch=False)
    assert open_session(tmp_path / "one.onnx", num_threads=1).get_inputs()[0].shape == [1, 1, 6, 6]

"""`export.semi_structured` on a machine without a GPU: the refusal, the choice of layers, and the file's round trip.

What the GPU computes from the file is examined in `tests/gpu/`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stages.contract import Artifact, local_context
from stages.export import semi_structured as export
from stages.export.settings import SemiStructuredSettings
from stages.models.bundle import fold_bundle, save_bundle
from stages.ops.tensor_file import write_tensors
from tests.stages.export.test_export_packed import masked, noisy_bundle

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of SparseSemiStructuredTensor:UserWarning")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the refusal is for machines without a GPU")
def test_without_a_gpu_the_stage_says_so_and_what_to_use(tmp_path: Path):
    save_bundle(masked(noisy_bundle("vit_micro"), "2:4"), tmp_path / "model")
    model = Artifact(kind="model", key="0" * 64, files={path.name: path for path in (tmp_path / "model").iterdir()})
    context = replace(local_context(SemiStructuredSettings(), folder=tmp_path, inputs={"model": model}), num_threads=1)
    with pytest.raises(RuntimeError, match=r"needs a CUDA GPU.*there is none; export\.packed stores 2:4 layers on any"):
        export.run(context)
    assert list(context.output.iterdir()) == []


def test_the_file_holds_half_the_weights_and_comes_back_exactly(tmp_path):
    bundle = masked(noisy_bundle("vit_micro"), "2:4")
    names, left = export.choose_layers(bundle)
    assert len(names) == 16
    assert left == {}
    plain = fold_bundle(bundle).half()
    export.write_semi_structured(plain, names, tmp_path / "file")
    dense = write_tensors(tmp_path / "dense", plain.state_dict())
    # 2 of 4 halves of 2 bytes and 2 bits for each: 9/16 of the layers' bytes.
    sparse_weights = sum(plain.get_submodule(name).weight.numel() for name in names)
    saved = sparse_weights * 2 * 7 / 16
    assert (tmp_path / "file").stat().st_size == pytest.approx(dense - saved, abs=4000)
    found, keys = export.read_semi_structured(tmp_path / "file")
    assert keys == [f"{name}.weight" for name in names]
    expected = plain.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_layers_that_the_cores_cannot_multiply_are_left_dense_and_named():
    with pytest.raises(ValueError, match=r"no layer is a 2:4 masked linear layer of a fitting size: .* it is a convolution"):
        export.choose_layers(masked(noisy_bundle("cnn_micro"), "2:4"))
    with pytest.raises(ValueError, match=r"its pattern is 1:4"):
        export.choose_layers(masked(noisy_bundle("vit_micro"), "1:4"))
    with pytest.raises(ValueError, match=r"the model has no masks"):
        export.choose_layers(noisy_bundle("vit_micro"))
    names, left = export.choose_layers(masked(noisy_bundle("vit65_micro"), "2:4"))
    assert names == tuple(f"blocks.{index}.mlp.fc2" for index in range(4))
    assert set(left.values()) >= {"96 x 32 is not a multiple of 32 x 64"}


def test_other_files_are_refused(tmp_path):
    write_tensors(tmp_path / "other", {"weight": torch.zeros(2)})
    with pytest.raises(ValueError, match="is no semi-structured model of format 1"):
        export.read_semi_structured(tmp_path / "other")

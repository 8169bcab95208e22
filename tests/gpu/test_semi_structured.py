"""`export.semi_structured` on a GPU: the real stage, from a 2:4 model to a file that sparse tensor cores multiply."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stages.contract import Artifact, local_context
from stages.export import semi_structured as export
from stages.export.settings import STAGES, SemiStructuredSettings
from stages.models.bundle import fold_bundle, save_bundle
from stages.models.nm_mask import masked_layers
from tests.stages.export.test_export_packed import masked, noisy_bundle

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of SparseSemiStructuredTensor:UserWarning"),
]


def test_the_file_multiplies_as_the_dense_model_does(tmp_path: Path):
    bundle = masked(noisy_bundle("vit_micro"), "2:4")
    save_bundle(bundle, tmp_path / "model")
    model = Artifact(kind="model", key="0" * 64, files={path.name: path for path in (tmp_path / "model").iterdir()})
    settings = SemiStructuredSettings(data="digits")
    context = replace(local_context(settings, folder=tmp_path, inputs={"model": model}), device="cuda")
    result = export.run(context)
    declared = next(spec for spec in STAGES if spec.name == "export.semi_structured").metrics
    assert set(declared) == set(result.metrics)
    assert result.metrics["num_sparse_layers"] == len(masked_layers(bundle.model))
    assert result.metrics["size_ratio"] < 0.65
    assert result.measurements["max_relative_difference"] < 1e-2
    assert result.measurements["latency_ms"] > 0

    loaded = fold_bundle(bundle).half().cuda()
    export.load_semi_structured(loaded, context.output / export.FILE)
    layer = loaded.get_submodule("blocks.0.attn.qkv")
    assert "SparseSemiStructured" in type(layer.weight.data).__name__ or "SparseSemiStructured" in repr(layer.weight)


def test_the_same_model_gives_the_same_bytes(tmp_path: Path):
    names, _ = export.choose_layers(masked(noisy_bundle("vit_micro"), "2:4"))
    for file in ("first", "second"):
        plain = fold_bundle(masked(noisy_bundle("vit_micro"), "2:4")).half().cuda()
        export.write_semi_structured(plain, names, tmp_path / file)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()

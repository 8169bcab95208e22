"""What an evaluation runs: the model itself, or the exported or packed file that is connected beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from stages.contract import Artifact, StageContext
from stages.models.bundle import WEIGHTS_FILE, ModelBundle, fold_bundle, save_bundle
from stages.models.measures import model_digest
from stages.models.packed import load_packed
from stages.ops.onnx_file import open_session, run_session


def open_subject(
    bundle: ModelBundle, context: StageContext, *, device: torch.device, stage: str
) -> tuple[Callable[..., Tensor], int, str]:
    """What runs, the bytes that it takes, and of which kind of file these are.

    That is onnxruntime with the file on the port `exported`; the model that the file on `packed` holds; or the model itself,
    all transforms folded in, with the bytes of its plain tensors.

    Raises:
        ValueError: both ports are connected, or a file is that of another model or takes one image at a time.
    """
    exported, packed = context.optional_input("exported"), context.optional_input("packed")
    if exported is not None and packed is not None:
        raise ValueError(f"{stage}: both `exported` and `packed` are connected; one evaluation is of one file")
    if exported is not None:
        path = _file_of_this_model(exported, context, stage=stage)
        if not json.loads(exported.file("export.json").read_text(encoding="utf-8"))["dynamic_batch"]:
            raise ValueError(f"{stage}: the exported file takes one image at a time; export with dynamic_batch")
        session = open_session(path, num_threads=context.num_threads)
        return lambda *inputs: run_session(session, *(each.cpu() for each in inputs)), path.stat().st_size, "onnx"
    if packed is not None:
        path = _file_of_this_model(packed, context, stage=stage)
        return load_packed(path).to(device), path.stat().st_size, "packed"
    plain = fold_bundle(bundle)
    folder = context.scratch / "plain"
    save_bundle(ModelBundle(architecture=bundle.architecture, model=plain), folder)
    return plain.to(device), (folder / WEIGHTS_FILE).stat().st_size, "safetensors"


def _file_of_this_model(exported: Artifact, context: StageContext, *, stage: str) -> Path:
    written = json.loads(exported.file("export.json").read_text(encoding="utf-8"))
    if written.get("source_digest") != model_digest(context.input("model")):
        raise ValueError(f"{stage}: the file is that of another model; connect the export of this model")
    return exported.file(written["file"])

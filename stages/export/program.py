"""The stage `export.program`: the model as a `torch.export` program, in a `.pt2` file that holds no pickle.

`torch.export.save` stores the graph as JSON and weights as plain bytes, but also pickles the example inputs, names the file's
folder after its path, adds an identity of the save, and leaves stack traces with paths of the machine in the graph. Here the
archive is written again without those: the example is left empty, which `torch.export.load` allows. So the same weights give
the same bytes, and loading through `load_program` runs no code from the file: it refuses any archive with a pickle in it.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from stages.contract import StageContext, StageResult
from stages.export.checks import check_images, logit_differences, logits_of, write_description
from stages.export.settings import ProgramSettings
from stages.models.bundle import fold_bundle, load_bundle
from stages.training.tasks.base import refuse_other_tasks

PROGRAM_FILE = "model.pt2"
ROOT = "program/"
SAMPLE_INPUTS = "data/sample_inputs/"
PAYLOADS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
PLACE_NOTES = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node")
"""Metadata of graph nodes that tell where the model was traced and do not act."""


def run(context: StageContext) -> StageResult:
    """Write `model.pt2` and `export.json`; the file is loaded again, without pickle, and run beside the model.

    Raises:
        RuntimeError: torch stored a tensor by pickle, or the program's logits differ by more than the tolerance.
        ValueError: the data have other images than the model takes.
    """
    settings = context.settings
    assert isinstance(settings, ProgramSettings)
    torch.set_num_threads(context.num_threads)
    bundle = load_bundle(context.input("model"))
    refuse_other_tasks(bundle, stage="export.program")
    spec, path, plain = bundle.architecture.input_spec, context.output / PROGRAM_FILE, fold_bundle(bundle)
    images = check_images(
        bundle, context, data=settings.data, num_samples=settings.verify_samples, stage="export.program"
    ).images
    write_program(plain, image_shape=spec.shape, path=path, dynamic_batch=settings.dynamic_batch)
    program = load_program(path)
    batch_size = 64 if settings.dynamic_batch else 1
    found = logits_of(program.module(), images, batch_size=batch_size)
    differences = logit_differences(found, logits_of(plain, images, batch_size=batch_size))
    if not differences["max_relative_difference"] <= settings.tolerance:  # also where it is NaN
        raise RuntimeError(
            f"export.program: the program's logits differ from the model's by {differences['max_relative_difference']:.3g} of "
            f"the largest on {len(images)} images; the tolerance is {settings.tolerance:.3g}"
        )
    size = path.stat().st_size
    write_description(
        context,
        {
            "format": 1,
            "file": PROGRAM_FILE,
            "torch": torch.__version__.partition("+")[0],
            "dynamic_batch": settings.dynamic_batch,
            "input": {"shape": ["batch" if settings.dynamic_batch else 1, *spec.shape], "type": "float32"},
            "output": {"classes": list(bundle.architecture.class_names)},
            "architecture": bundle.architecture.name,
            "transforms": [transform.name for transform in bundle.transforms],
            "size_bytes": size,
        },
    )
    metrics: dict[str, Any] = {
        "size_bytes": size,
        "num_graph_nodes": len(program.graph.nodes),
        "has_pickle": bool(pickles_in(path)),
        **differences,
    }
    return StageResult(metrics=metrics)


def write_program(model: nn.Module, *, image_shape: tuple[int, ...], path: Path, dynamic_batch: bool = True) -> None:
    """Trace a plain module in evaluation mode and write it without pickle; the same weights give the same bytes.

    Raises:
        RuntimeError: torch stored a tensor by pickle, which it does for tensors of unusual kinds.
    """
    # Two images in the example, because the tracer takes a size of 1 for a constant.
    example = torch.zeros(2 if dynamic_batch else 1, *image_shape)
    shapes = ({0: torch.export.Dim("batch")},) if dynamic_batch else None
    with torch.no_grad():
        program = torch.export.export(model, (example,), dynamic_shapes=shapes)
    saved = io.BytesIO()
    torch.export.save(program, saved)
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for record in sorted(source.namelist()):
            name = record.partition("/")[2]
            target.writestr(zipfile.ZipInfo(ROOT + name), _without_place(name, source.read(record)))
    _refuse_pickles(path)


def load_program(path: Path) -> ExportedProgram:
    """Load a program, running no code from the file.

    Raises:
        RuntimeError: the archive holds something that torch would unpickle.
    """
    _refuse_pickles(path)
    return torch.export.load(str(path))


def pickles_in(path: Path) -> list[str]:
    """Records of a `.pt2` archive that torch would unpickle when it loads them; [] means that loading runs no code."""
    found: list[str] = []
    with zipfile.ZipFile(path) as archive:
        for record in archive.namelist():
            name, size = record.partition("/")[2], archive.getinfo(record).file_size
            if (name.startswith(SAMPLE_INPUTS) or name.endswith((".pkl", ".pt"))) and size:
                found.append(record)
            if name.endswith("_config.json"):
                config = json.loads(archive.read(record))["config"]
                found += [f"{record}: {key}" for key, payload in sorted(config.items()) if payload.get("use_pickle", True)]
            if name.startswith("data/aotinductor/"):
                found.append(record)
    return found


def _refuse_pickles(path: Path) -> None:
    found = pickles_in(path)
    if found:
        raise RuntimeError(f"{path.name} holds pickles or compiled code, which is never loaded here: {', '.join(found[:3])}")


def _without_place(name: str, content: bytes) -> bytes:
    if name.startswith(SAMPLE_INPUTS):
        return b""
    if name.endswith("serialization_id"):
        return b"0"
    if not (name.startswith("models/") and name.endswith(".json")):
        return content
    described = json.loads(content)
    for node in described["graph_module"]["graph"]["nodes"]:
        for note in PLACE_NOTES:
            node["metadata"].pop(note, None)
    return json.dumps(described, separators=(",", ":")).encode()

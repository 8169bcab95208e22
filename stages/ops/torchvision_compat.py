"""Makes torchvision, and with it timm, importable beside a CPU build of torch. Import this module before timm.

torchvision's wheel on the package index is built for CUDA. Beside a CPU torch its compiled library does not load, so the
operators `torchvision::nms` and `torchvision::qnms` are missing and `import torchvision` fails when it describes them. timm
imports torchvision but classification never calls these operators; declaring them is enough. Can go once
`pip install torch torchvision` gives a pair that loads without a GPU.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_DECLARATIONS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

_library: torch.library.Library | None = None  # the declarations last as long as this object


def ensure_torchvision_imports() -> bool:
    """Declare the operators that torchvision's own library could not bring along; True where that was needed."""
    global _library  # noqa: PLW0603 - torch's operator table is one per process, and so is this
    if _library is not None:
        return True
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    for path in sorted(Path(spec.origin).parent.glob("_C*.so")):
        try:
            torch.ops.load_library(path)  # type: ignore[no-untyped-call, unused-ignore]
        except (OSError, ImportError):
            continue
    missing = {name: text for name, text in _DECLARATIONS.items() if not hasattr(torch.ops.torchvision, name)}
    if not missing:
        return False
    _library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name, text in missing.items():
        _library.define(name + text)  # type: ignore[no-untyped-call]
    return True


ensure_torchvision_imports()

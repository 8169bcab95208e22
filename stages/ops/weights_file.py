"""Weights in a file that somebody else wrote, as tensors by name.

Nothing that could run code is read: safetensors, or a torch file opened with `weights_only=True`.
"""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.ops.tensor_file import read_tensors

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar")
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Names under which training scripts keep the weights in a file; averaged ones first, as timm does."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, without the wrapping that training scripts put around them.

    Raises:
        ValueError: the file is of another kind, damaged, holds objects that are no tensors, or no weights at all.
    """
    if path.suffix == ".safetensors":
        return _unwrapped(read_tensors(path), path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} is no file of weights by its name; expected one of {', '.join(SUFFIXES)}")
    try:
        # Training scripts keep their command line beside the weights: names and values, in a class that does nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"{path} cannot be read as a file of weights: {error}") from error
    except Exception as error:  # damaged files make torch raise whatever it comes across
        # Of torch's own words only the name: they advise to switch the safety off.
        kind = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if kind is None:
            raise ValueError(
                f"{path} cannot be read as a file of weights: it is none of torch's, or damaged or cut short"
            ) from error
        raise ValueError(refusal(str(path), kind[1])) from error
    return _unwrapped(content, path)


def refusal(where: str, kind: str) -> str:
    """What is said of a file of weights with a pickled object of this kind."""
    return (
        f"{where} holds more than tensors ({kind}), and reading that could run code of whoever wrote it, so it is refused. "
        "Load it where you trust it and save its state_dict() alone, best as safetensors"
    )


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        for name in _WRAPPERS:
            if isinstance(content.get(name), Mapping):
                content = content[name]
                break
    if not isinstance(content, Mapping) or not content or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise ValueError(
            f"{path} holds no weights by name; expected tensors at the top, or below one of {', '.join(_WRAPPERS)}"
        )
    # Wrappers for parallel training and compilation put their own names before those of the network.
    return {str(name).removeprefix("module.").removeprefix("_orig_mod."): tensor for name, tensor in content.items()}

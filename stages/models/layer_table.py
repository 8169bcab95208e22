"""What a model's layers are made of, one row each: weights, non-zeros, bits, multiply-accumulates. For people to look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.models.bundle import ModelBundle, fold_bundle
from stages.models.fake_quant import layer_bits
from stages.ops.counting import FLOAT_BITS, count_compute

LAYERS_FILE = "layers.json"
FORMAT = 1


def layer_rows(bundle: ModelBundle) -> list[dict[str, Any]]:
    """One row for each convolution and linear layer, in the order of the model, all transforms folded in.

    Returns:
        name: of the module.
        num_weights, num_nonzero: of its weight, without the bias.
        weight_bits, activation_bits: 32 where nothing rounds them.
        macs: multiply-accumulates of one image, zero weights included.
    """
    model = fold_bundle(bundle).cpu()
    macs = count_compute(model, torch.zeros(1, *bundle.architecture.input_spec.shape)).macs_by_layer
    bits = layer_bits(bundle.model)
    return [
        {
            "name": name,
            "num_weights": weight.numel(),
            "num_nonzero": int(weight.count_nonzero()),
            "weight_bits": bits[name][0] if name in bits else FLOAT_BITS,
            "activation_bits": bits[name][1] if name in bits else FLOAT_BITS,
            "macs": macs.get(name, 0),
        }
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and isinstance(weight := layer.weight, Tensor)
    ]


def save_layers(bundle: ModelBundle, folder: Path) -> None:
    """Write the rows to `layers.json` in `folder`; it follows from the weights and the transforms alone."""
    text = json.dumps({"format": FORMAT, "layers": layer_rows(bundle)}, indent=1) + "\n"
    (folder / LAYERS_FILE).write_text(text, encoding="utf-8")

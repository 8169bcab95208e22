"""What every stage that makes a model says about it: sizes, nominal compute, and which model it is. No clock is read here."""

from __future__ import annotations

import torch
from blake3 import blake3

from stages.contract import Artifact
from stages.models.bundle import DESCRIPTION_FILE, WEIGHTS_FILE, ModelBundle, fold_bundle
from stages.models.fake_quant import layer_bits
from stages.ops.counting import FLOAT_BITS, count_compute, num_nonzero_parameters, num_parameters

METRICS = ("num_parameters", "num_nonzero_parameters", "sparsity", "gmacs", "gmacs_effective", "bops")
"""The names that `measure_model` gives for every model."""


def model_digest(model: Artifact) -> str:
    """Digest of a model's description and weights, by which an exported file is known to be this model's."""
    parts = (blake3(model.file(name).read_bytes()).digest() for name in (DESCRIPTION_FILE, WEIGHTS_FILE))
    return blake3(b"".join(parts)).hexdigest()


def measure_model(bundle: ModelBundle) -> dict[str, float | int]:
    """Count a model's parameters and the multiply-accumulates of one image, with all transforms folded in.

    Returns:
        num_parameters: learned numbers; masks and running statistics are none.
        num_nonzero_parameters: those that are not exactly 0.
        sparsity: 1 - non-zero / all, in [0, 1].
        gmacs: multiply-accumulates / 1e9 of layers and attention, zero weights included (often printed as "FLOPs"). Finding
            similar tokens is left out, as papers do, though it is executed too.
        gmacs_effective: the same without multiplications by zero weights. Nominal: no runtime here skips them, so it says
            nothing about speed.
        bops: bit operations, multiply-accumulates x weight bits x activation bits; floats count 32 x 32, and so do products
            of activations (attention), which no transform rounds.
        gmacs_matching: what finding similar tokens costs beside gmacs, / 1e9; only for models that do.
    """
    model = fold_bundle(bundle).cpu()
    count = count_compute(model, torch.zeros(1, *bundle.architecture.input_spec.shape))
    bits = layer_bits(bundle.model)
    quantized = {name: count.macs_by_layer[name] for name in bits if name in count.macs_by_layer}
    parameters, nonzero = num_parameters(model), num_nonzero_parameters(model)
    return {
        "num_parameters": parameters,
        "num_nonzero_parameters": nonzero,
        "sparsity": 1.0 - nonzero / parameters,
        "gmacs": count.macs / 1e9,
        "gmacs_effective": count.macs_nonzero / 1e9,
        "bops": (count.macs - sum(quantized.values())) * FLOAT_BITS * FLOAT_BITS
        + sum(macs * bits[name][0] * bits[name][1] for name, macs in quantized.items()),
        **({"gmacs_matching": count.macs_apart / 1e9} if count.macs_apart else {}),
    }

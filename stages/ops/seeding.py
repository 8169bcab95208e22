"""Puts a process into a known state before a stage computes: threads, number formats, random generators.

Processes are reused for many stages, so whatever an earlier stage left behind is set back here, in one place.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from stages.contract import StageContext
from stages.ops.seeds import derive_seed


def prepare_process(context: StageContext) -> torch.device:
    """Seed every random generator from the context and set back what an earlier stage may have changed.

    On a CPU the same settings, seed and number of threads then give the same weights to the bit. A stage calls this before it
    loads data or builds a model; `train` calls it again, so that what happened in between does not matter.

    Returns:
        The device to compute on.
    """
    device = torch.device(context.device)
    torch.set_num_threads(context.num_threads)
    torch.set_default_dtype(torch.float32)
    if torch.get_default_device() != torch.device("cpu"):
        torch.set_default_device(None)
    torch.set_grad_enabled(True)
    torch.set_float32_matmul_precision("highest")
    torch.autograd.set_detect_anomaly(False)
    # On a GPU some operators have no deterministic form and would fail; there, equal results are not promised.
    torch.use_deterministic_algorithms(device.type == "cpu", warn_only=True)
    # Otherwise every new tensor is written twice.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = device.type != "cpu"
    seed_generators(context.seed)
    return device


def seed_generators(seed: int) -> None:
    """Seed Python's, NumPy's and torch's own generators, each with a stream of its own."""
    random.seed(derive_seed(seed, "python"))
    np.random.seed(derive_seed(seed, "numpy") % 2**32)  # noqa: NPY002 - libraries draw from the global generator
    torch.manual_seed(derive_seed(seed, "torch"))


def random_state() -> dict[str, Any]:
    """State of the generators as tensors and JSON; `restore_random_state` takes it back."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    assert name == "MT19937"
    assert isinstance(keys, np.ndarray)
    state: dict[str, Any] = {
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "keys": torch.from_numpy(keys.astype(np.int64)),
            "position": position,
            "has_gauss": has_gauss,
            "cached": cached,
        },
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = list(torch.cuda.get_rng_state_all())
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Set the generators to a state that `random_state` gave."""
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, numpy["position"], numpy["has_gauss"], numpy["cached"]))  # noqa: NPY002
    torch.set_rng_state(state["torch"].clone())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([one.clone() for one in state["cuda"]])

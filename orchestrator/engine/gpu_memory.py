"""GPU memory, measured where a stage runs, and what share of a GPU it comes to. A share is all that Ray heeds: two nodes whose
memory does not fit one GPU are kept apart by asking for more than half of it each. Loads no torch.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.engine.executors.base import MachineShape
from orchestrator.workflow.spec import Resources

if TYPE_CHECKING:
    from orchestrator.engine.units import Unit

CONTEXT_BYTES = 512 * 2**20
"""What a process holds of a GPU beside its tensors, about: CUDA's own context and loaded kernels."""

STEP = 0.05
"""Shares are rounded up to this: hosts are kept by what they hold, and a share of its own for every node would keep none."""


@dataclass(frozen=True)
class GpuPeak:
    """The most that a process held of a GPU, its context among it, and how much that GPU had, in bytes."""

    peak_bytes: int
    gpu_bytes: int


NO_GPU = GpuPeak(0, 0)

GpuNeed = Callable[["Unit", Mapping[str, "Unit"]], GpuPeak | None]
"""What nodes like this one were seen to hold; None where none was recorded."""


def gpu_share(peak_bytes: int, gpu_bytes: int) -> float:
    """The share of a GPU that some memory comes to, rounded up, at most 1; 1 where the GPU's size is not known.

    Example:
        >>> gpu_share(30 * 2**30, 80 * 2**30)
        0.4
    """
    if gpu_bytes <= 0:
        return 1.0
    return min(1.0, round(math.ceil(peak_bytes / gpu_bytes / STEP - 1e-9) * STEP, 6))


def with_gpu_share(resources: Resources, need: GpuPeak, machines: Sequence[MachineShape]) -> Resources:
    """A request for a fraction of a GPU, made as large as the memory that is needed; other requests as they are.

    Where GPUs differ, the smallest that holds the memory counts: on a larger one the share is more than enough.
    """
    if not 0 < resources.gpus < 1:
        return resources
    known = sorted({machine.gpu_memory_bytes for machine in machines if machine.gpus and machine.gpu_memory_bytes})
    holds = [size for size in known if size >= need.peak_bytes] or known[-1:] or [need.gpu_bytes]
    share = gpu_share(need.peak_bytes, holds[0])
    return resources.model_copy(update={"gpus": share}) if share > resources.gpus else resources


def begin_gpu_measurement() -> None:
    """Forget what earlier stages of this process held, and give it back to those beside it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def measured_gpu_peak() -> GpuPeak:
    """The most that this process held since `begin_gpu_measurement`; NO_GPU where it has used none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return NO_GPU
    total_bytes = int(torch.cuda.get_device_properties(0).total_memory)
    return GpuPeak(min(total_bytes, int(torch.cuda.max_memory_reserved()) + CONTEXT_BYTES), total_bytes)


def local_gpu_memory_bytes() -> int:
    """Memory of the smallest GPU of this machine; 0 where that cannot be told."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"],  # noqa: S607 - of the driver
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
        return min((int(line) * 2**20 for line in done.stdout.split()), default=0)
    except (OSError, subprocess.SubprocessError, ValueError):
        return 0

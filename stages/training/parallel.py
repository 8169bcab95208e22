"""What the processes of one data-parallel training do together. Knows torch.distributed; knows no model, no data and no Ray.

Each process trains the whole model on its share of every batch. Once per step all exchange means in one message: gradients,
loss and the running statistics of batch norms. So all hold the same bits after each update, and what hooks decide from
weights (masks, freezing, rates) they decide alike. The whole gradient is exchanged at once and not while it is computed, as
`DistributedDataParallel` does: methods freeze weights and take parameters over while training runs, which it cannot follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _NormBase

from stages.contract import WorkersLost

BUCKET_NUMBERS = 2**25
"""Numbers in one message, so that a copy of a large gradient takes 128 MiB and no more."""


class Placed(Protocol):
    """Which process of how many this is."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...


class ParallelGroup:
    """The processes that train together; of one alone, every method does nothing and costs nothing.

    Raises:
        RuntimeError: there should be others, and torch.distributed has not been started or counts otherwise.
    """

    def __init__(self, context: Placed, *, device: torch.device) -> None:
        self.rank, self.size, self.device = context.rank, context.world_size, device
        if self.size == 1:
            return
        found = distributed.get_world_size() if distributed.is_initialized() else 0
        if (found, distributed.get_rank() if found else 0) != (self.size, self.rank):
            raise RuntimeError(
                f"this is process {self.rank} of {self.size}, but torch.distributed knows {found or 'none'}; "
                "call torch.distributed.init_process_group before the stage"
            )

    @property
    def is_first(self) -> bool:
        """Whether this process saves states."""
        return self.rank == 0

    @torch.no_grad()
    def copy_first(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes the values of the first, in place."""
        if self.size > 1:
            for tensor in tensors:
                value = tensor.detach().contiguous()
                _exchange(distributed.broadcast, value, src=0)
                tensor.copy_(value)

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each by its mean over all processes, in place. All processes give tensors of the same shapes."""
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1).float() for tensor in bucket])
            _exchange(distributed.all_reduce, flat)
            flat /= self.size
            for tensor, mean in zip(bucket, torch.split(flat, [tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(mean.view(tensor.shape))

    def copy_files(self, folder: Path | None, *, to: Path) -> Path | None:
        """Give all processes the files in the first one's folder; None where the first has none.

        Args:
            folder: of the first process; of the others it plays no part.
            to: a folder that the other processes write into.
        """
        if self.size == 1:
            return folder
        files = sorted(folder.iterdir()) if self.is_first and folder is not None else []
        listed = "/".join(f"{path.name}:{path.stat().st_size}" for path in files).encode()
        listed = bytes(self._send(listed).numpy())
        if not listed:
            return None
        if not self.is_first:
            to.mkdir(parents=True, exist_ok=True)
        for entry in listed.decode().split("/"):
            name = entry.partition(":")[0]
            content = self._send(next(path.read_bytes() for path in files if path.name == name) if self.is_first else b"")
            if not self.is_first:
                (to / name).write_bytes(content.numpy().tobytes())
        return folder if self.is_first else to

    def _send(self, content: bytes) -> Tensor:
        """The first process's bytes, on the CPU."""
        size = torch.tensor([len(content)], dtype=torch.int64, device=self.device)
        _exchange(distributed.broadcast, size, src=0)
        data = torch.empty(int(size), dtype=torch.uint8)
        if self.is_first and content:
            data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        if len(data):
            data = data.to(self.device)
            _exchange(distributed.broadcast, data, src=0)
        return data.cpu()


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Means and variances of the batch norms that gather them at present."""
    found: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, _NormBase) and module.training and module.running_mean is not None:
            assert module.running_var is not None
            found += [module.running_mean, module.running_var]
    return found


def _exchange(message: Callable[..., Any], tensor: Tensor, **options: Any) -> None:
    try:
        message(tensor, **options)
    except RuntimeError as error:
        raise WorkersLost("lost one of the processes that train together: it died, or its machine cannot be reached") from error


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    buckets: list[list[Tensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if filled and filled + tensor.numel() > BUCKET_NUMBERS:
            buckets.append([])
            filled = 0
        buckets[-1].append(tensor)
        filled += tensor.numel()
    return buckets

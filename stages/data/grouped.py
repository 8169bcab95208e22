"""Images that are read in groups of neighbours, from a folder or a bucket. Knows neither Parquet nor tar; decodes nothing.

The order of a shuffled pass: groups in random order, and images at random among those of as many groups in a row as fill a
window. It is known before anything is read, so a pass begins, and goes on, at any image; what is read is what is needed, and
no more than two windows of encoded images are held. The shards were shuffled when they were written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from stages.data.images import EncodedImage

_READERS = 4


class Rows(Protocol):
    """The images of one group, by their numbers in it."""

    def __getitem__(self, row: int, /) -> EncodedImage: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupedImages(ABC):
    """Images of one split (see `Images`). `kept` are the numbers of those that belong to this part; None for all."""

    window: int
    kept: Tensor | None = None
    starts: Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", torch.tensor([0, *self.group_sizes()], dtype=torch.int64).cumsum(0))

    @abstractmethod
    def group_sizes(self) -> Sequence[int]:
        """Images of each group."""

    @abstractmethod
    def all_labels(self) -> Tensor:
        """(N,) int64 of all groups, without reading an image."""

    @abstractmethod
    def read_group(self, number: int) -> Rows:
        """The images of a group, checked.

        Raises:
            ValueError: they cannot be read, or are not what they were said to be.
        """

    def __len__(self) -> int:
        return int(self.starts[-1]) if self.kept is None else len(self.kept)

    def labels(self) -> Tensor:
        """See `Images.labels`."""
        return self.all_labels() if self.kept is None else self.all_labels()[self.kept]

    def order(self, shuffle_seed: int | None) -> Tensor:
        """See `Images.order`; numbers are those of all shards even where only a part is kept."""
        if shuffle_seed is None:
            return torch.arange(len(self)) if self.kept is None else self.kept
        generator = torch.Generator().manual_seed(shuffle_seed)
        windows = self._windows(torch.randperm(len(self.starts) - 1, generator=generator).tolist())
        shuffled = [torch.cat(window)[torch.randperm(sum(map(len, window)), generator=generator)] for window in windows]
        order = torch.cat(shuffled)
        if self.kept is None:
            return order
        is_kept = torch.zeros(int(self.starts[-1]), dtype=torch.bool)
        is_kept[self.kept] = True
        return order[is_kept[order]]

    def _windows(self, groups: Sequence[int]) -> list[list[Tensor]]:
        """The images of the groups, in as many pieces as have a window's size."""
        windows: list[list[Tensor]] = [[]]
        for group in groups:
            if sum(map(len, windows[-1])) >= self.window:
                windows.append([])
            windows[-1].append(torch.arange(int(self.starts[group]), int(self.starts[group + 1])))
        return windows

    def read(self, order: Tensor) -> Generator[EncodedImage, None, None]:
        """See `Images.read`. A group is held from its first image to its last; as many more are read ahead as fill a window.

        Raises:
            ValueError: see `read_group`.
        """
        groups = (torch.searchsorted(self.starts, order, right=True) - 1).tolist()
        rows = (order - self.starts[torch.tensor(groups, dtype=torch.int64)]).tolist()
        last_use = {group: place for place, group in enumerate(groups)}
        upcoming = deque(dict.fromkeys(groups))
        ahead = max(1, self.window // max(self.group_sizes(), default=1))
        held: dict[int, Rows] = {}
        pending: deque[tuple[int, Future[Rows]]] = deque()
        pool = ThreadPoolExecutor(min(_READERS, ahead))
        try:
            for place, (group, row) in enumerate(zip(groups, rows, strict=True)):
                while group not in held:
                    while upcoming and len(pending) < ahead:
                        number = upcoming.popleft()
                        pending.append((number, pool.submit(self.read_group, number)))
                    number, future = pending.popleft()
                    held[number] = future.result()
                image = held[group][row]
                if last_use[group] == place:
                    del held[group]
                yield image
        finally:
            pool.shutdown(cancel_futures=True)

    def part(self, index: Tensor) -> Self:
        """See `Images.part`."""
        return replace(self, kept=index if self.kept is None else self.kept[index])

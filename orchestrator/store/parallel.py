"""Many slow requests at once, answered in order. Knows no store."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

Item = TypeVar("Item")
Answer = TypeVar("Answer")
_AHEAD = 2


def in_parallel(action: Callable[[Item], Answer], items: Iterable[Item], *, width: int) -> Generator[Answer, None, None]:
    """`action` of each item, in order, with up to `width` at work and a few answers waiting; at width 1 in this very thread."""
    if width <= 1:
        yield from map(action, items)
        return
    from concurrent.futures import ThreadPoolExecutor  # late: a local store must not pay for it

    pool = ThreadPoolExecutor(width, thread_name_prefix="store")
    waiting: deque[Future[Answer]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(action, item))
            if len(waiting) >= _AHEAD * width:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)

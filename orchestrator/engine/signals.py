"""Ctrl-C and SIGTERM as a request that the scheduler heeds at its next turn: the first asks, a second one does not wait."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class StopNow(KeyboardInterrupt):
    """The second request. A type of its own: a stage may raise KeyboardInterrupt, and that is the stage's failure."""


class StopRequests:
    """Counts requests to stop. Handlers live in the main thread only; elsewhere nothing is installed."""

    def __init__(self) -> None:
        self.signal_number = 0

    @property
    def asked(self) -> bool:
        return self.signal_number != 0

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Install the handlers for a while, and put the former ones back."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self.install()
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def install(self) -> None:
        """Take the signals over (again: `ray.init` installs handlers of its own, under which SIGTERM aborts)."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._heed)

    def _heed(self, number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise StopNow
        self.signal_number = number

"""One line that is drawn over while artifacts are verified; nothing where stderr is no terminal."""

from __future__ import annotations

import time

from orchestrator.cli.shell import Shell

_INTERVAL_S = 0.1
_BAR_WIDTH = 30


class VerifyBar:
    """Shows how far it is."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._is_shown = shell.is_live and not shell.quiet and not shell.as_json
        self._drawn_s = 0.0

    def advance(self, done: int, total: int, read_bytes: int) -> None:
        """Draw the line anew, a few times a second."""
        now_s = time.monotonic()
        if not self._is_shown or (now_s - self._drawn_s < _INTERVAL_S and done < total):
            return
        from orchestrator.report.text import format_bytes

        self._drawn_s = now_s
        filled = "#" * (_BAR_WIDTH * done // max(1, total))
        self._shell.err.write(f"\r\x1b[K[{filled:<{_BAR_WIDTH}}] {done} of {total}, {format_bytes(read_bytes)}")
        self._shell.err.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._is_shown and self._drawn_s:
            self._shell.err.write("\r\x1b[K")
            self._shell.err.flush()

"""Text that a command writes where --csv or --plot says: to a file, or to stdout for "-"."""

from __future__ import annotations

from pathlib import Path

from orchestrator.cli.shell import Shell
from orchestrator.errors import UsageError


def write_out(shell: Shell, target: str, text: str, *, what: str) -> None:
    """Write text to the file `target`, or to stdout where it is "-"."""
    if target == "-":
        shell.data(text.splitlines())
        return
    write_file(target, text.encode())
    shell.say(f"{what} written to {target}")


def write_file(target: str, data: bytes) -> None:
    """Write a whole file; UsageError where that cannot be."""
    try:
        Path(target).write_bytes(data)
    except OSError as error:
        raise UsageError(
            f"cannot write {target}: {error.strerror}", next_step="name a file in a folder that is there and may be written to"
        ) from error

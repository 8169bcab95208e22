"""The command line: arguments -> api -> lines of text. The only place that prints, and the only one that knows exit codes.

Each command lives in a module that is imported when the command is called, so that `orchestrator --help` and a plan whose
nodes are all finished answer before a person notices a wait.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; never raises."""
    gc.disable()  # imports and a plan make no garbage worth looking for; what runs for long turns it on (`shell.stay`)
    from orchestrator.cli.failures import run_guarded
    from orchestrator.cli.shell import Shell

    shell = Shell(arguments=list(sys.argv[1:] if arguments is None else arguments))
    try:
        return run_guarded(shell, list(shell.arguments))
    finally:
        shell.close()
        gc.enable()
        gc.freeze()  # the last collection, at exit, then has nothing to walk through

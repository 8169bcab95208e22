"""Submits a workflow as the command line does, printing each event at once: FILE STORE EXECUTOR [MORE_MIB].

MORE_MIB: the address space that the run may take beyond what this process has when it begins.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

from orchestrator import api


class Printing(api.Watcher):
    def happened(self, events: Any, status: Any) -> None:
        for event in events:
            print(event["type"], event.get("node", ""), event.get("ending", ""), flush=True)


def main(file: str, store: str, executor: Any, more_mib: str = "") -> int:
    workspace = api.open_workspace(store)
    if more_mib:
        _bound_memory(int(more_mib))
    try:
        result = api.submit(
            api.plan(file, workspace=workspace),
            workspace=workspace,
            executor=executor,
            options=api.RunOptions(grace_s=5.0),
            watcher=Printing(),
        )
    except api.OrchestratorError as error:
        print("error", error.message, flush=True)
        return error.exit_code
    print("state", result.state.value, flush=True)
    if result.signal_number:
        return 128 + result.signal_number
    return 0 if result.state is api.State.DONE else 3


def _bound_memory(more_mib: int) -> None:
    import stages.probe.blob  # noqa: F401 - what it loads is not what is bounded

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more_mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

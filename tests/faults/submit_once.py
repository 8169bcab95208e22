"""Submits a workflow as the command line does, printing each event at once: FILE STORE EXECUTOR."""

from __future__ import annotations

import sys
from typing import Any

from orchestrator import api


class Printing(api.Watcher):
    def happened(self, events: Any, status: Any) -> None:
        for event in events:
            print(event["type"], event.get("node", ""), event.get("ending", ""), flush=True)


def main(file: str, store: str, executor: Any) -> int:
    workspace = api.open_workspace(store)
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


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""The entrypoint of a run's job on a cluster: `python -m orchestrator.cli.job --store URL --run RUN --ray ADDRESS`.

Looks at its interpreter before it imports anything that a wrong one has not got: whoever reads the job's log reads a sentence.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys

NEEDED = ("blake3", "botocore", "click", "pydantic", "ray", "rich", "torch", "yaml")
EXIT_UNFIT = 7


def main() -> int:
    """Drive the run; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.cli.job")
    parser.add_argument("--store", required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--ray", default=os.environ.get("RAY_ADDRESS") or "auto")
    parser.add_argument("--store-is-shared", action="store_true")
    options = parser.parse_args()
    why = unfit(sys.version_info[:2])
    if why:
        print(f"error: {why}\n   next: an image that has it (cluster/Dockerfile), or --python PATH", file=sys.stderr)  # noqa: T201
        return EXIT_UNFIT

    from orchestrator import api
    from orchestrator.cli.following import EXIT_UNMET, exit_code
    from orchestrator.cli.shell import Shell
    from orchestrator.cli.watching import make_watcher
    from orchestrator.errors import OrchestratorError

    shell = Shell(store_url=options.store)
    watcher = make_watcher(shell)
    watcher.promise = f"orchestrator cancel {options.run} asks it to stop"
    place = api.RayPlace(address=options.ray, store_is_shared=options.store_is_shared, ships_code=False)
    try:
        with watcher.watching():
            result = api.drive_recorded(options.run, workspace=shell.workspace, place=place, watcher=watcher)
    except OrchestratorError as error:
        shell.insist(f"error: {error.message}", f"   next: {error.next_step}")
        return error.exit_code
    code = exit_code(result.state.value, signal_number=result.signal_number, over_budget=result.status.over_budget)
    return EXIT_UNMET if code == 0 and result.unmet else code


def unfit(version: tuple[int, int]) -> str:
    """Why this interpreter cannot drive a run; empty if it can."""
    found = f"Python {version[0]}.{version[1]} at {sys.executable}"
    if not (3, 11) <= version < (3, 14):
        return f"{found} runs this job; expected 3.11 to 3.13"
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    return f"{found} has not got {', '.join(missing)}, which the stages and the engine need" if missing else ""


if __name__ == "__main__":
    sys.exit(main())

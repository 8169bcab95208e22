"""The main job, unchanged, on object stores: `python benchmarks/s3_main_job.py moto ceph rclone`.

On each server one machine runs it; a second one (another cache, another process) asks for the same and must find all of it
made. Content digests are compared with those of the same job in a local folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "store")]
STARTERS = ("moto", "ceph", "rclone")


def main() -> int:
    """Run it on every server asked for; 1 if any digest differs or anything was made twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="*", default=STARTERS, help=f"of {', '.join(STARTERS)}; default: all")
    parser.add_argument("--workflow", default=str(ROOT / "workflows" / "vit_compress.yaml"))
    parser.add_argument("--executor", choices=("ray", "inline"), default="ray")
    asked = parser.parse_args()
    is_right = True
    with tempfile.TemporaryDirectory(prefix="orchestrator-main-") as name:
        folder = Path(name)
        local, seconds = submit(asked, str(folder / "local"), folder / "cache-local", {})
        print(f"local folder: {len(local)} nodes in {seconds:.0f} s", flush=True)
        for server in asked.servers:
            is_right &= on_server(asked, server, local, folder)
    return 0 if is_right else 1


def on_server(asked: argparse.Namespace, name: str, local: dict[str, str], folder: Path) -> bool:
    """The job on one server, by two machines."""
    import servers

    found = getattr(servers, name)()
    store = f"s3://{servers.BUCKET}/main"
    first, first_s = submit(asked, store, folder / f"cache-{name}-a", found.variables)
    second, second_s = submit(asked, store, folder / f"cache-{name}-b", found.variables)
    different = sorted(label for label in local if first.get(label) != local[label])
    again = sorted(label for label in second if second[label] != first.get(label))
    print(
        f"{name}: first machine {len(first)} nodes in {first_s:.0f} s, second {second_s:.1f} s; digests unlike the local ones: "
        f"{different or 'none'}; made again: {again or 'none'}",
        flush=True,
    )
    return not different and not again


def submit(asked: argparse.Namespace, store: str, cache: Path, variables: dict[str, str]) -> tuple[dict[str, str], float]:
    """Content digest of each node that is done, by label, and the seconds that it took."""
    environment = {**os.environ, **variables, "ORCHESTRATOR_CACHE": str(cache)}
    command = [sys.executable, "-m", "orchestrator", "--store", store, "--json"]
    started = time.monotonic()
    run = subprocess.run(
        [*command, "submit", asked.workflow, "--executor", asked.executor],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    seconds = time.monotonic() - started
    end: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    shown = subprocess.run(
        [*command, "status", end["run"]], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    nodes = json.loads(shown.stdout)["run"]["nodes"]
    return {
        node["label"]: digest(command, node["key"], environment) for node in nodes if node["state"] in ("done", "hit")
    }, seconds


def digest(command: list[str], key: str, environment: dict[str, str]) -> str:
    """The content digest in an artifact's record."""
    shown = subprocess.run([*command, "show", key], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return str(json.loads(shown.stdout)["artifact"]["content_digest"])


if __name__ == "__main__":
    raise SystemExit(main())

"""The same work without the engine, each in a process of its own: `python baselines.py NAME FOLDER [ARGUMENTS]` prints JSON."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def measure(name: str, folder: Path, *arguments: str) -> dict[str, float]:
    """Run a baseline in a fresh process and return its figures."""
    command = [sys.executable, __file__, name, str(folder), *arguments]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def start_ray() -> Any:
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_SCHEDULER_EVENTS="0", RAY_worker_niceness="0", RAY_AUTH_MODE="disabled")
    import ray

    ray.init(
        address="local", include_dashboard=False, logging_level="ERROR", log_to_driver=False, object_store_memory=256 * 2**20
    )
    return ray


def ray_cold(_folder: Path) -> dict[str, float]:
    """One call of one actor on a Ray of its own: what a run of one node cannot do without."""
    ray = start_ray()

    @ray.remote
    class Echo:
        def call(self, value: str) -> str:
            return value

    echo = Echo.remote()
    ray.get(echo.call.remote("x"))
    ray.shutdown()
    return {}


def ray_calls(_folder: Path) -> dict[str, float]:
    """Seconds of a call of a reused actor, and of a task, one after the other, each with a message as long as a node's."""
    ray = start_ray()
    message = "x" * 500

    @ray.remote
    class Echo:
        def call(self, value: str) -> str:
            return value

    @ray.remote
    def task(value: str) -> str:
        return value

    echo = Echo.remote()

    def median_s(call: Any) -> float:
        times = []
        for _ in range(300):
            started = time.perf_counter()
            ray.get(call(message))
            times.append(time.perf_counter() - started)
        return statistics.median(times[20:])

    result = {"actor_call_s": median_s(echo.call.remote), "task_s": median_s(task.remote)}
    ray.shutdown()
    return result


def loop(folder: Path) -> dict[str, float]:
    """Seconds per step of a loop that reads a JSON file and writes the next, flushed to disk."""
    times = []
    for index in range(300):
        started = time.perf_counter()
        before = json.loads((folder / f"{index - 1}.json").read_text()) if index else None
        path = folder / f"{index}.json"
        with path.open("w") as file:
            json.dump({"value": index, "before": before and before["value"]}, file)
            file.flush()
            os.fsync(file.fileno())
        times.append(time.perf_counter() - started)
    return {"node_s": statistics.median(times)}


def blob_loop(folder: Path, size: str, count: str) -> dict[str, float]:
    """Seconds of the same stage function called in a loop on files: it hashes what it reads and what it writes."""
    from stages.catalog import find_stage, load_implementation
    from stages.contract import Artifact, local_context

    spec = find_stage("probe.bytes")
    run = load_implementation(spec)
    started = time.perf_counter()
    inputs: dict[str, Artifact] = {}
    for index in range(int(count)):
        context = local_context(spec.settings(size=int(size)), folder=folder / f"plain{index}", inputs=inputs)
        run(context)
        inputs = {"input": Artifact(kind="probe", key=str(index), files={"blob.bin": context.output / "blob.bin"})}
    return {"seconds": time.perf_counter() - started}


def raw_write(folder: Path, size: str) -> dict[str, float]:
    """Bytes per second of writing memory to a new file."""
    data = memoryview(bytearray(os.urandom(2**20)) * (int(size) // 2**20))
    return _best_rate(lambda path: path.write_bytes(data), folder, int(size))


def tensor_write(folder: Path, size: str) -> dict[str, float]:
    """Bytes per second of the tensor file that models are kept in."""
    import torch

    from stages.ops.tensor_file import write_tensors

    tensors = {f"layer{index}": torch.randn(int(size) // 16) for index in range(4)}
    return _best_rate(lambda path: write_tensors(path, tensors), folder, int(size))


def _best_rate(write: Any, folder: Path, size: int) -> dict[str, float]:
    times = []
    for index in range(4):
        path = folder / f"write{index}"
        started = time.perf_counter()
        write(path)
        times.append(time.perf_counter() - started)
        path.unlink()
    return {"bytes_per_s": size / statistics.median(times[1:])}


BASELINES = {
    "ray-cold": ray_cold,
    "ray-calls": ray_calls,
    "loop": loop,
    "blob-loop": blob_loop,
    "raw-write": raw_write,
    "tensor-write": tensor_write,
}

if __name__ == "__main__":
    print(json.dumps(BASELINES[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])))

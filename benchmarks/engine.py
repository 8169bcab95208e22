"""What the engine costs, beside what the same work costs without it, measured in the same run on the same machine.

    python benchmarks/engine.py [--repeat 3] [--only chain,cached,...] [--json benchmarks/out/engine.json]

Absolute times mean little on a shared machine; each line is a ratio to a baseline that ran next to it: `python -c pass`, raw
Ray, a plain Python loop that writes files, a raw write. Median, minimum and maximum over the repeats. A target that is missed
is said to be missed, and by how much.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import baselines
import scale

ORCHESTRATOR = [sys.executable, "-m", "orchestrator"]
MIB = 2**20


@dataclass
class Line:
    """One measured ratio: ours over the baseline (or the other way round where larger is better)."""

    name: str
    ratios: list[float]
    target: float | None = None  # none: shown for comparison
    larger_is_better: bool = False
    detail: str = ""

    @property
    def met(self) -> bool:
        median = statistics.median(self.ratios)
        return self.target is None or (median >= self.target if self.larger_is_better else median <= self.target)

    def text(self) -> str:
        median = statistics.median(self.ratios)
        verdict = "for comparison"
        if self.target is not None:
            missed = f"by {abs(median / self.target - 1):.0%}" if self.target else f"by {median:g}"
            verdict = (
                f"target {'>=' if self.larger_is_better else '<='} {self.target:<6g} {'ok' if self.met else f'MISSED {missed}'}"
            )
        spread = f"({min(self.ratios):.3f} to {max(self.ratios):.3f})"
        return f"{self.name:<51} {median:8.3f}  {spread}   {verdict}  {self.detail}".rstrip()


class Bench:
    """A scratch folder, and the ways to run things in it."""

    def __init__(self, folder: Path, repeat: int) -> None:
        self.folder = folder
        self.repeat = repeat
        self.counter = 0

    def fresh(self) -> Path:
        """A new, empty folder."""
        self.counter += 1
        place = self.folder / str(self.counter)
        place.mkdir()
        return place

    def submit(self, place: Path, workflow: Path, *flags: str, executor: str = "ray") -> float:
        """Seconds of `orchestrator submit`, the whole process."""
        command = [
            *ORCHESTRATOR,
            "--store",
            str(place / "store"),
            "--quiet",
            "submit",
            str(workflow),
            "--executor",
            executor,
            *flags,
        ]
        return timed(command)

    def python_pass(self) -> float:
        """Median seconds of `python -c pass`, the floor of any command."""
        return statistics.median(timed([sys.executable, "-c", "pass"]) for _ in range(7))


def timed(command: Sequence[str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return seconds


def write_workflow(place: Path, name: str, lines: Sequence[str]) -> Path:
    path = place / f"{name}.yaml"
    path.write_text(f"version: 1\nname: {name}\nnodes:\n" + "".join(f"  {line}\n" for line in lines))
    return path


def chain(place: Path, length: int, *, last: int = 0) -> Path:
    lines = ["n0: {stage: probe.echo, params: {value: 0}}"]
    lines += [
        f"n{i}: {{stage: probe.echo, params: {{value: {last if i == length - 1 else i}}}, inputs: {{inputs: n{i - 1}}}}}"
        for i in range(1, length)
    ]
    return write_workflow(place, "chain", lines)


def fan_out(place: Path, width: int) -> Path:
    values = ", ".join(str(i) for i in range(width))
    return write_workflow(
        place,
        "fan",
        [f"wide: {{stage: probe.echo, foreach: {{value: [{values}]}}}}", "reduce: {stage: probe.echo, inputs: {inputs: wide}}"],
    )


def blobs(place: Path, count: int, size: int) -> Path:
    lines = [f"b0: {{stage: probe.bytes, params: {{size: {size}}}}}"]
    lines += [f"b{i}: {{stage: probe.bytes, params: {{size: {size}}}, inputs: {{input: b{i - 1}}}}}" for i in range(1, count)]
    return write_workflow(place, "blobs", lines)


def node_seconds(store: Path) -> float:
    """Seconds per node of the newest run, from the first to the last that was done: start-up left out."""
    runs = sorted((store / "runs").iterdir(), key=lambda path: (path / "run.json").stat().st_mtime)
    events = [json.loads(line) for line in (runs[-1] / "events.jsonl").read_text().splitlines()]
    times = [datetime.fromisoformat(event["time"]).timestamp() for event in events if event["type"] == "node_done"]
    skip = min(5, len(times) // 4)  # the first nodes wait for the hosts to start
    return (times[-1] - times[skip]) / (len(times) - 1 - skip)


def bench_cold(bench: Bench) -> list[Line]:
    ray_ratios, inline_ratios = [], []
    for _ in range(bench.repeat):
        place = bench.fresh()
        raw = timed([sys.executable, baselines.__file__, "ray-cold", str(place)])
        ray_ratios.append(bench.submit(place, chain(place, 1)) / raw)
        place = bench.fresh()
        inline_ratios.append(bench.submit(place, chain(place, 1), executor="inline"))
    return [
        Line("one node, cold, on Ray / raw Ray cold", ray_ratios, 1.05),
        Line("one node, cold, inline, seconds", inline_ratios, 0.45),
    ]


def bench_chain(bench: Bench) -> list[Line]:
    on_ray, to_tasks, to_loop, cached = [], [], [], []
    for _ in range(bench.repeat):
        place = bench.fresh()
        raw = baselines.measure("ray-calls", place)
        bench.submit(place, chain(place, 50))
        seconds = node_seconds(place / "store")
        on_ray.append(seconds / raw["actor_call_s"])
        to_tasks.append(seconds / raw["task_s"])
        to_loop.append(seconds / baselines.measure("loop", place)["node_s"])
        cached.append(bench.submit(place, chain(place, 50)) / bench.python_pass())
    return [
        Line("chain of 50, new node / raw reused actor call", on_ray, 6),
        Line("chain of 50, new node / raw Ray task", to_tasks),
        Line("chain of 50, new node / plain loop with files", to_loop),
        Line("chain of 50, cached / python -c pass", cached, 27),
    ]


def bench_fan_out(bench: Bench) -> list[Line]:
    new_300, new_3000, cached_300, cached_3000, slope = [], [], [], [], []
    for _ in range(bench.repeat):
        place_300, place_3000 = bench.fresh(), bench.fresh()
        raw = baselines.measure("ray-calls", place_300)
        for place, width, ratios in ((place_300, 300, new_300), (place_3000, 3000, new_3000)):
            bench.submit(place, fan_out(place, width))
            ratios.append(node_seconds(place / "store") / raw["actor_call_s"])
        floor = bench.python_pass()
        few = statistics.median(bench.submit(place_300, fan_out(place_300, 300)) for _ in range(3))
        many = statistics.median(bench.submit(place_3000, fan_out(place_3000, 3000)) for _ in range(3))
        cached_300.append(few / floor)
        cached_3000.append(many / floor)
        slope.append((many - few) / 2700 * 1000)
    growth = [b / a for a, b in zip(new_300, new_3000, strict=True)]
    return [
        Line("fan-out of 300, new node / raw reused actor call", new_300, 6),
        Line("fan-out of 3,000, new node / raw reused actor call", new_3000, 6),
        Line("new node at 3,000 / at 300", growth, 1.2),
        Line("fan-out of 300, cached / python -c pass", cached_300, 36),
        Line("fan-out of 3,000, cached / python -c pass", cached_3000, 135, detail="(300's, and 0.35 ms each)"),
        Line("each further cached node, ms", slope, 0.35),
    ]


def bench_change(bench: Bench) -> list[Line]:
    ratios = []
    for _ in range(bench.repeat):
        place = bench.fresh()
        bench.submit(place, chain(place, 10))
        changed = bench.submit(place, chain(place, 10, last=99), executor="inline")
        ratios.append(changed / bench.python_pass())
        run = newest_run(place / "store")
        assert num_done(run) == 1, "only the changed node may run"
    return [Line("last of 10 changed, inline / python -c pass", ratios, 43, detail="(0.45 s)")]


def newest_run(store: Path) -> Path:
    return max((store / "runs").iterdir(), key=lambda path: (path / "run.json").stat().st_mtime)


def num_done(run: Path) -> int:
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return sum(event["type"] == "node_done" and event["ending"] == "done" for event in events)


def bench_blobs(bench: Bench) -> list[Line]:
    size = 256 * MIB
    ratios, writes, cached, memory = [], [], [], []
    for _ in range(bench.repeat):
        place = bench.fresh()
        plain = baselines.measure("blob-loop", place, str(size), "5")
        raw = baselines.measure("raw-write", place, str(size))
        workflow = blobs(place, 5, size)
        bench.submit(place, workflow, executor="inline")
        events = [json.loads(line) for line in (newest_run(place / "store") / "events.jsonl").read_text().splitlines()]
        span = [datetime.fromisoformat(e["time"]).timestamp() for e in events if e["type"] in ("run_started", "run_finished")]
        ratios.append(plain["seconds"] / (span[1] - span[0]))
        writes.append(baselines.measure("tensor-write", place, str(size))["bytes_per_s"] / raw["bytes_per_s"])
        cached.append(bench.submit(place, workflow, executor="inline") / bench.python_pass())
        memory.append(peak_memory_bytes(bench, size) / (2.2 * size + 100 * MIB))
        shutil.rmtree(place)
    return [
        Line("five artifacts of 256 MiB, plain loop / ours", ratios, 0.9, larger_is_better=True, detail="hashing on, inline"),
        Line("tensor file write, of a raw write's speed", writes, 0.8, larger_is_better=True),
        Line("peak memory / (2.2 artifacts + 100 MiB)", memory, 1.0),
        Line("five artifacts, cached / python -c pass", cached, 27),
    ]


def peak_memory_bytes(bench: Bench, size: int) -> int:
    """Largest resident memory of a process that runs two chained artifacts inline."""
    place = bench.fresh()
    command = [
        *ORCHESTRATOR,
        "--store",
        str(place / "store"),
        "--quiet",
        "submit",
        str(blobs(place, 2, size)),
        "--executor",
        "inline",
    ]
    pid = os.posix_spawn(
        sys.executable, command, os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)]
    )
    _, status, usage = os.wait4(pid, 0)
    assert status == 0, status
    shutil.rmtree(place)
    return usage.ru_maxrss * 1024


def bench_resume(bench: Bench) -> list[Line]:
    surplus = []
    for _ in range(bench.repeat):
        place = bench.fresh()
        lines = ["n0: {stage: probe.sleep, params: {seconds: 0.2, value: 0}}"]
        lines += [
            f"n{i}: {{stage: probe.sleep, params: {{seconds: 0.2, value: {i}}}, inputs: {{inputs: n{i - 1}}}}}"
            for i in range(1, 20)
        ]
        workflow = write_workflow(place, "resume", lines)
        command = [*ORCHESTRATOR, "--store", str(place / "store"), "--quiet", "submit", str(workflow)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        records = place / "store/artifacts/probe.sleep"
        while (len(list(records.glob("*/record.json"))) if records.is_dir() else 0) < 10:
            time.sleep(0.02)
            assert process.poll() is None, "the run ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_until_quiet(records)
        finished = len(list(records.glob("*/record.json")))
        bench.submit(place, workflow)
        surplus.append(num_done(newest_run(place / "store")) - (20 - finished))
    return [Line("nodes run beyond the unfinished after kill -9", [float(n) for n in surplus], 0)]


def wait_until_quiet(records: Path) -> None:
    """The stage host outlives its driver by a moment and may still finish its node."""
    before = -1
    while before != (now := len(list(records.glob("*/record.json")))):
        before = now
        time.sleep(2.5)


def bench_scale(_bench: Bench) -> list[Line]:
    small, large = (scale.measure_in_a_process(trials) for trials in (10, 1000))
    return [
        Line("100,000 nodes planned, seconds", [large["planned_s"]], 60, detail=f"({large['distinct']:,} different)"),
        Line("100,000 nodes planned, GiB", [large["planned_gib"]], 4),
        Line("100,000 nodes on 1,000 workers, 1 % failures, s", [large["driven_s"]], 120,
             detail=f"({large['attempts']:,} attempts, {large['virtual_h']:.1f} h of virtual time)"),
        Line("planning a node at 100,000 / at 1,000, of CPU", [large["planned_cpu_s"] / small["planned_cpu_s"] / 100], 2,
             detail=f"({small['planned_cpu_s'] * 1e3:.0f} to {large['planned_cpu_s'] * 10:.0f} us)"),
        Line("driving a node at 100,000 / at 1,000, of CPU", [large["driven_cpu_s"] / small["driven_cpu_s"] / 100], 2,
             detail=f"({small['driven_cpu_s'] * 1e3:.0f} to {large['driven_cpu_s'] * 10:.0f} us)"),
    ]  # fmt: skip


CASES: dict[str, Callable[[Bench], list[Line]]] = {
    "cold": bench_cold,
    "chain": bench_chain,
    "fan": bench_fan_out,
    "change": bench_change,
    "blobs": bench_blobs,
    "resume": bench_resume,
    "scale": bench_scale,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default=",".join(CASES), help=f"of {','.join(CASES)}")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "out" / "engine.json")
    arguments = parser.parse_args()
    lines: list[Line] = []
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        bench = Bench(Path(folder), arguments.repeat)
        for name in arguments.only.split(","):
            for line in CASES[name](bench):
                lines.append(line)
                print(line.text(), flush=True)
    missed = [line.name for line in lines if not line.met]
    num_targets = sum(line.target is not None for line in lines)
    print(f"{num_targets - len(missed)} of {num_targets} targets met" + (f"; missed: {', '.join(missed)}" if missed else ""))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "platform": platform.platform(terse=True)}
    result = {
        "time": datetime.now(UTC).isoformat(),
        "machine": machine,
        "lines": [{**asdict(line), "met": line.met} for line in lines],
    }
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

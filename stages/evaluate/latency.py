"""Latencies of runners that take turns on one clock. Knows no model: a runner is a function without arguments.

Two programs timed one after the other are compared across whatever the machine did meanwhile. Here they alternate, call by
call and in changing order, so that a slow second hits both; the ratio is taken inside each round and its median reported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles

Runner = Callable[[], object]

MIN_SAMPLE_S = 0.002
"""Shortest time that one sample covers; quicker runners are called several times in it."""
MIN_ROUNDS = 5
WARM_UP_SHARE = 0.15
"""Share of the time spent on calls that do not count: caches, threads and lazy initialisation."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds per call over all rounds: median, and the 10 % and 90 % points as the spread."""

    median_ms: float
    low_ms: float
    high_ms: float
    num_samples: int
    samples_ms: tuple[float, ...]


def measure_interleaved(
    runners: Mapping[str, Runner], *, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Latency]:
    """Time the runners in turns for about `seconds` in all, warm-up included, and for at least 5 rounds."""
    begin = clock()
    calls = {name: _warm_up(runner, seconds * WARM_UP_SHARE / len(runners), clock) for name, runner in runners.items()}
    samples: dict[str, list[float]] = {name: [] for name in runners}
    rounds = 0
    while rounds < MIN_ROUNDS or clock() - begin < seconds:
        for name in list(runners)[:: 1 if rounds % 2 == 0 else -1]:
            runner, count = runners[name], calls[name]
            start = clock()
            for _ in range(count):
                runner()
            samples[name].append((clock() - start) / count * 1000)
        rounds += 1
    return {name: _summary(values) for name, values in samples.items()}


def paired_ratio(baseline: Latency, subject: Latency) -> float:
    """How many times faster the subject is: median over rounds of baseline time / subject time; above 1 is faster."""
    return median(slow / fast for slow, fast in zip(baseline.samples_ms, subject.samples_ms, strict=True))


def _warm_up(runner: Runner, seconds: float, clock: Callable[[], float]) -> int:
    """Call until `seconds` have passed, at least twice; returns the calls that fill one sample."""
    runner()
    begin, count = clock(), 0
    while count == 0 or clock() - begin < seconds:
        runner()
        count += 1
    per_call = (clock() - begin) / count
    return max(1, round(MIN_SAMPLE_S / max(per_call, 1e-9)))


def _summary(samples_ms: list[float]) -> Latency:
    tenths = quantiles(samples_ms, n=10, method="inclusive")
    return Latency(
        median_ms=median(samples_ms),
        low_ms=tenths[0],
        high_ms=tenths[-1],
        num_samples=len(samples_ms),
        samples_ms=tuple(samples_ms),
    )

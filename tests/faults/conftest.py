"""What the fault tests share: places to work, S3 behind a proxy, and one table at the end that counts what was done to the tool
and what it cost. `--least-faults` (of `make chaos`) makes the run fail where fewer faults were injected than that.
"""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "store"))  # its servers; last, or its conftest would hide this one

from s3_proxy import Proxy, proxied
from servers import BUCKET, environment, started

COSTS = ("lost", "torn", "wrong", "duplicate")
"""What must never happen: finished work gone or done again, half a record, other content, a key published twice."""
SERIES_LIMIT_S = 3000


@dataclass
class Tally:
    """What one test has injected, by kind of fault, and what came of it. A problem begins with one of `COSTS` and a colon."""

    name: str
    seed: str = ""
    faults: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def add(self, kind: str, number: int = 1, *, problems: Iterable[str] = ()) -> None:
        self.faults[kind] += number
        self.problems += problems

    def row(self) -> dict[str, Any]:
        return {"name": self.name, "seed": self.seed, "faults": dict(self.faults), "problems": self.problems}


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Counts this test's faults for the table at the end; a problem that was reported fails the test."""
    found = Tally(request.node.name)
    yield found
    request.node.user_properties.append(("faults", json.dumps(found.row())))
    assert found.problems == [], f"seed {found.seed}"


@pytest.fixture
def series() -> Callable[..., dict[str, Any]]:
    """Runs a program of this folder that kills runs in a row; returns what it prints."""

    def run(program: str, *arguments: object) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name(program)), *map(str, arguments)],
            capture_output=True, text=True, check=False, timeout=SERIES_LIMIT_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    return run


@pytest.fixture
def proxy(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A server behind a proxy that does nothing yet, and the environment that leads through it; retries come at once.

    It is moto, if the test names no other one (`indirect=True`).
    """
    from botocore.retries.standard import ExponentialBackoff

    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.01)
    server = started(getattr(request, "param", "moto"))
    with ExitStack() as stack:
        found = stack.enter_context(proxied(server.endpoint))
        variables = {**server.variables, "AWS_ENDPOINT_URL": found.endpoint, "ORCHESTRATOR_CACHE": str(tmp_path / "cache")}
        stack.enter_context(environment(variables))
        yield found


@pytest.fixture
def place() -> str:
    """The address of a store that nobody has used."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones may take long."""
    for item in items:
        if item.get_closest_marker("chaos") is not None:
            item.add_marker(pytest.mark.timeout(SERIES_LIMIT_S))


# The table


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--least-faults", type=int, default=0, help="fail unless so many faults were injected")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = _rows(terminalreporter.stats)
    least = config.getoption("least_faults", 0)
    if not (rows and least):
        return
    terminalreporter.section("faults injected, and what they cost")
    total: Counter[str] = Counter()
    kinds: dict[str, Counter[str]] = {}
    for row in rows:
        for kind, number in row["faults"].items():
            kinds.setdefault(kind, Counter())["faults"] += number
        costs = Counter(problem.partition(":")[0] for problem in row["problems"])
        kind = max(row["faults"], key=row["faults"].get, default="none")
        kinds.setdefault(kind, Counter()).update(cost if cost in COSTS else "other" for cost in costs.elements())
    heads = ("faults", *COSTS, "other")
    terminalreporter.write_line(f"{'kind':<44}" + "".join(f"{head:>11}" for head in heads))
    for kind, counts in sorted(kinds.items()):
        total.update(counts)
        terminalreporter.write_line(f"{kind:<44}" + "".join(f"{counts[head]:>11}" for head in heads))
    terminalreporter.write_line(f"{'total':<44}" + "".join(f"{total[head]:>11}" for head in heads))
    seeds = sorted({f"{row['name']}: {row['seed']}" for row in rows if row["seed"]})
    if seeds:
        terminalreporter.write_line("seeds  " + "; ".join(seeds))
    if total["faults"] < least:
        terminalreporter.write_line(f"only {total['faults']} faults were injected; expected at least {least}", red=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    least = session.config.getoption("least_faults", 0)
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if least and reporter is not None and not hasattr(session.config, "workerinput"):
        number = sum(sum(row["faults"].values()) for row in _rows(reporter.stats))
        if number < least and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _rows(stats: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """What the tests have counted; a test's properties come with its last phase."""
    return [
        json.loads(value)
        for reports in stats.values()
        for report in reports
        if getattr(report, "when", "") == "teardown" or getattr(report, "outcome", "") == "failed"
        for name, value in getattr(report, "user_properties", ())
        if name == "faults"
    ]

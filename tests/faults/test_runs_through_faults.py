"""Whole runs over a failing server: they complete, or end in words and go on; two drivers at once make each artifact once."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from s3_proxy import KINDS, Proxy, SeededPlan

from orchestrator import api
from orchestrator.errors import StoreError
from orchestrator.store.lease import Leases
from orchestrator.store.leftovers import find_leftovers, remove_leftovers
from orchestrator.workflow.check import check_workflow
from orchestrator.workflow.load import load_text

pytestmark = pytest.mark.xdist_group("s3-moto")
SUBMIT = Path(__file__).with_name("submit_once.py")
WORKFLOW = """
version: 1
name: disturbed
nodes:
  a: {stage: probe.echo, params: {value: 1}}
  b: {stage: probe.bytes, params: {size: 30000}, inputs: {input: a}, retry: {attempts: 3, backoff: 10ms}}
  s: {stage: probe.sleep, params: {seconds: 0.2}, inputs: {inputs: a}, retry: {attempts: 3, backoff: 10ms}}
  c: {stage: probe.bytes, params: {size: 9000}, inputs: {input: b}, retry: {attempts: 3, backoff: 10ms}}
  d: {stage: probe.echo, params: {value: 4}, inputs: {inputs: [b, s, c]}}
"""
MANY = "version: 1\nname: raced\nnodes:\n" + "".join(
    f"  n{number}: {{stage: probe.bytes, params: {{size: {1000 + number}}}, retry: {{attempts: 3, backoff: 10ms}}"
    + (f", inputs: {{input: n{number - 3}}}}}\n" if number >= 3 else "}\n")
    for number in range(10)
)
MOST_SUBMISSIONS = 40
CHAOS = pytest.mark.chaos


def submit(workspace: api.Workspace, text: str) -> api.RunResult:
    plan = api.plan_checked(check_workflow(load_text(text, file="w.yaml")), workspace=workspace)
    return api.submit(plan, workspace=workspace, executor="inline")


def contents(workspace: api.Workspace) -> dict[str, str]:
    found = {}
    for record in workspace.artifacts.all_records():
        workspace.artifacts.open(record)
        found[record.label] = record.content_digest
    workspace.store.release_blobs()
    return found


def expected_of(text: str, folder: Path) -> dict[str, str]:
    workspace = api.open_workspace(str(folder))
    submit(workspace, text)
    return contents(workspace)


def costs(workspace: api.Workspace, expected: dict[str, str]) -> list[str]:
    """Looked at undisturbed, after all runs have ended."""
    store, ledger = workspace.store, workspace.ledger
    seen = contents(workspace)
    problems = [f"wrong: {name}" for name, digest in seen.items() if expected.get(name) != digest]
    problems += [f"lost: {name}" for name in expected if name not in seen]
    told = [event for request in ledger.runs() for event in ledger.events(request.id)[0]]
    made = Counter(event["node"] for event in told if event["type"] == "node_done" and event["ending"] == "done")
    problems += [f"duplicate: {name} was made {number} times" for name, number in made.items() if number > 1]
    problems += [f"duplicate: a record of {name} was replaced" for name in store.list("quarantine")]
    for stage, key, _ in workspace.artifacts.scan():
        if workspace.artifacts.find(stage, key) is None:
            problems.append(f"torn: {stage} {key}")
    states = {request.id: api.status(request.id, workspace=workspace).state for request in ledger.runs()}
    problems += [f"other: run {run} seems to be {state}" for run, state in states.items() if state in ("running", "starting")]
    remove_leftovers(
        store, find_leftovers(store, finished=[], needed=[], checkpoints_older_than_s=1e9, uploads_older_than_s=-60)
    )
    return problems + [f"other: an upload is left: {upload.path}" for upload in store.uploads()]


@pytest.mark.parametrize(
    ("proxy", "rate", "seed"),
    [
        ("moto", 0.05, 1), ("moto", 0.3, 2),
        *(pytest.param("moto", rate, seed, marks=CHAOS) for rate in (0.02, 0.1, 0.2, 0.4, 0.6) for seed in range(10, 14)),
        *(pytest.param("ceph", rate, 14, marks=[CHAOS, pytest.mark.xdist_group("s3-ceph")]) for rate in (0.1, 0.4)),
    ],
    indirect=["proxy"],
)  # fmt: skip
def test_a_run_over_a_failing_server_ends_well_or_in_words_and_goes_on(
    request: pytest.FixtureRequest, proxy: Proxy, place: str, tmp_path: Path, tally, monkeypatch, rate: float, seed: int
) -> None:
    """Throttling, 5xx, answers that are lost, cut, slow or old, in any order; as often as it takes it is submitted again."""
    if "moto" in request.node.name:  # others take no parts that are smaller than 5 MiB
        monkeypatch.setattr("orchestrator.store.s3_transfer.PART_BYTES", 8000)
    expected = expected_of(WORKFLOW, tmp_path / "reference")
    proxy.rule = SeededPlan(seed, rate)
    problems: list[str] = []
    tally.seed = str(seed)
    for _ in range(MOST_SUBMISSIONS):
        try:
            result = submit(api.open_workspace(place), WORKFLOW)
        except StoreError as error:
            problems += [] if error.message else ["other: an error without words"]
        else:
            if result.state is api.State.DONE:
                break
            endings = {node.ending for node in result.status.nodes.values() if node.state == "failed"}
            problems += [f"other: a node ended {ending}" for ending in endings - {"storage"}]
    else:
        problems.append("other: it never ended well")
    proxy.rule = None
    workspace = api.open_workspace(place)
    assert submit(workspace, WORKFLOW).state is api.State.DONE  # tidies up
    if list(workspace.store.list("leases")):  # which could not be given back; their holder lives, and beats no more
        monkeypatch.setattr("orchestrator.store.lease.TTL_S", 1.0)
        time.sleep(2.1)
        Leases(workspace.store, run="").sweep()
    problems += costs(workspace, expected)
    problems += [f"other: a lease is left: {name}" for name in workspace.store.list("leases")]
    for kind, number in proxy.injected.items():
        tally.add(f"S3 proxy: {kind}", number)
    tally.add("S3 proxy: runs", 0, problems=problems)


@pytest.mark.parametrize(
    ("rate", "seed"), [(0.0, 0), *(pytest.param(0.04, seed, marks=pytest.mark.chaos) for seed in range(1, 5))]
)
def test_two_drivers_on_one_store_make_each_artifact_once(
    proxy: Proxy, place: str, tmp_path: Path, tally, monkeypatch, rate: float, seed: int
) -> None:
    """Two machines, one bucket, one file; both end well."""
    expected = expected_of(MANY, tmp_path / "reference")
    file = tmp_path / "w.yaml"
    file.write_text(MANY)
    workspace = api.open_workspace(place)
    assert workspace.store.caution() == ""
    proxy.rule = SeededPlan(seed, rate, tuple(kind for kind in KINDS if kind != "stale_list"))
    drivers = []
    for number in range(2):
        monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / f"machine-{number}"))
        command = [sys.executable, str(SUBMIT), str(file), place, "inline"]
        drivers.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    outputs = [driver.communicate(timeout=240)[0] for driver in drivers]
    proxy.rule = None
    problems = [
        f"other: a driver ended with {driver.returncode}: {output}"
        for driver, output in zip(drivers, outputs, strict=True)
        if driver.returncode not in ((0,) if not rate else (0, 3, StoreError.exit_code)) or "Traceback" in output
    ]
    assert submit(workspace, MANY).state is api.State.DONE
    problems += costs(workspace, expected)
    problems += [f"other: a lease is left: {name}" for name in workspace.store.list("leases")]
    tally.seed = str(seed)
    for kind, number in proxy.injected.items():
        tally.add(f"S3 proxy: {kind}", number)
    tally.add("two drivers on one store", problems=problems)

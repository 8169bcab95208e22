"""What gc must keep: everything that a run, a search or a person still needs."""

from __future__ import annotations

from orchestrator import api
from orchestrator.store.inventory import take_inventory
from orchestrator.store.lease import Leases
from orchestrator.store.names import Names
from orchestrator.workflow.roots import RootRules, find_roots, keys_of_run, live_leases

CHAIN = """\
version: 1
name: chain
nodes:
  first: {stage: probe.echo, params: {value: 3}}
  last: {stage: probe.echo, inputs: {inputs: [first]}}
"""

SEARCH = """\
version: 1
name: search
nodes:
  base: {stage: probe.echo, params: {value: 1}}
  search:
    sweep:
      sampler: grid
      objectives: {try.value: maximize}
      space: {try.value: {choice: [1, 2, 3]}}
    nodes:
      try: {stage: probe.echo, inputs: {inputs: [base]}}
"""

NOTHING = RootRules(keep_since="9", keep_sweeps=False)


def roots(workspace: api.Workspace, rules: RootRules) -> dict[str, str]:
    inventory = take_inventory(workspace.store)
    return {
        inventory.artifacts[key].label: why
        for key, why in find_roots(workspace.store, rules)(inventory).items()
        if key in inventory.artifacts
    }


def test_nothing_is_a_root_by_itself(workspace: api.Workspace, run_text) -> None:
    run_text(CHAIN)
    assert roots(workspace, NOTHING) == {}


def test_what_recent_runs_used_is_kept_hits_too(workspace: api.Workspace, run_text) -> None:
    """A run of today that found everything made long ago would find nothing tomorrow."""
    run_text(CHAIN)
    run_text(CHAIN.replace("value: 3", "value: 4"))
    assert set(roots(workspace, RootRules(keep_since="2026", keep_sweeps=False)).values()) == {"of a recent run"}
    assert len(roots(workspace, RootRules(keep_since="2026", keep_sweeps=False))) == 2
    assert len(take_inventory(workspace.store).artifacts) == 4
    (newest, oldest) = (request.id for request in workspace.ledger.runs())
    assert newest != oldest
    again = run_text(CHAIN)
    assert not any(node.state == "done" for node in again.status.nodes.values())
    inventory = take_inventory(workspace.store)
    kept = find_roots(workspace.store, RootRules(keep_since="9", keep_runs=1, keep_sweeps=False))(inventory)
    assert set(kept) == {node.key for node in again.status.nodes.values()}


def test_trials_that_joined_a_run_count_as_its_own(workspace: api.Workspace, run_text) -> None:
    """They are in no plan: only the ledger knows them."""
    result = run_text(SEARCH)
    (request,) = workspace.ledger.runs()
    keys = keys_of_run(workspace.ledger, request)
    assert {held.key for held in take_inventory(workspace.store).artifacts.values()} <= keys
    assert result.run == request.id


def test_of_a_settled_sweep_the_best_and_the_front_are_kept(workspace: api.Workspace, run_text) -> None:
    run_text(SEARCH)
    kept = roots(workspace, RootRules(keep_since="9"))
    assert kept == {"search": "found by a search", "search/t0002/try": "found by a search"}


def test_what_a_live_run_and_a_live_lease_need_is_kept_until_they_end(workspace: api.Workspace, run_text) -> None:
    """A run that trains for days would lose its inputs below it."""
    run = run_text(CHAIN).run
    leases = Leases(workspace.store, run=run)
    leases.acquire(f"run-{run}")
    assert roots(workspace, NOTHING) == {"first": "of a running run", "last": "of a running run"}
    leases.close()
    assert roots(workspace, NOTHING) == {}
    leases.acquire("ab" * 16)
    assert live_leases(workspace.store) == ({"ab" * 16}, {run})
    assert len(roots(workspace, NOTHING)) == 2, "whoever holds a lease of a node works for a run"
    leases.close()


def test_names_and_pins_are_roots(workspace: api.Workspace, run_text) -> None:
    run_text(CHAIN)
    first, last = sorted(workspace.artifacts.all_records(), key=lambda record: record.label)
    Names(workspace.store).promote(first, "first-one")
    Names(workspace.store).pin(last)
    assert roots(workspace, NOTHING) == {"first": "named", "last": "pinned"}

"""What gc chooses, and that it takes nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_artifacts import NOW, OLD, hits, key_of, make, make_older

from orchestrator.errors import StoreError, UsageError
from orchestrator.store.artifacts import Artifacts, record_mark
from orchestrator.store.blobs import digest_bytes
from orchestrator.store.claims import Claims
from orchestrator.store.gc import GcRules, apply_gc, plan_gc
from orchestrator.store.inventory import Inventory
from orchestrator.store.lease import Leases
from orchestrator.store.local import LocalStore

SINCE = "2026-05-01T00:00:00.000Z"
RULES = GcRules(keep_since=SINCE)


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(LocalStore(tmp_path / "store"))


def keeping(*keys: str):
    def roots(_inventory: Inventory) -> Mapping[str, str]:
        return dict.fromkeys(keys, "named")

    return roots


def gc(artifacts: Artifacts, *kept: str, rules: GcRules = RULES) -> set[str]:
    """Run it; the keys that went."""
    plan = plan_gc(artifacts.store, rules, keeping(*kept))
    result = apply_gc(artifacts.store, plan, rules, keeping(*kept))
    assert result.removed == list(plan.removed)
    assert result.freed_bytes == plan.freed_bytes
    return {held.key for held in result.removed}


def test_what_nothing_keeps_goes_with_its_blobs(artifacts: Artifacts) -> None:
    """The disk would fill up for ever."""
    make(artifacts, key_of(1), {"a": b"one", "b": b"both"})
    make(artifacts, key_of(2), {"a": b"two", "b": b"both"})
    assert gc(artifacts, key_of(2)) == {key_of(1)}
    assert hits(artifacts) == {key_of(2)}
    assert {blob.digest for blob in artifacts.store.blobs()} == {digest_bytes(b"two"), digest_bytes(b"both")}
    assert sorted(artifacts.store.list("artifacts/probe.echo")) == [key_of(2)]
    assert artifacts.find("probe.echo", key_of(1)) is None


def test_all_that_a_kept_artifact_was_made_from_is_kept(artifacts: Artifacts) -> None:
    """A plan asks for every node above it: one that is gone would be made again."""
    make(artifacts, key_of(1), {"a": b"1"})
    make(artifacts, key_of(2), {"a": b"2"}, inputs=[key_of(1)])
    make(artifacts, key_of(3), {"a": b"3"}, inputs=[key_of(2)])
    make(artifacts, key_of(4), {"a": b"4"}, inputs=[key_of(3)])
    assert gc(artifacts, key_of(3)) == {key_of(4)}
    assert hits(artifacts) == {key_of(1), key_of(2), key_of(3)}


def test_what_was_finished_lately_is_kept(artifacts: Artifacts) -> None:
    """Work of today would be gone tomorrow."""
    make(artifacts, key_of(1), {"a": b"1"}, finished=OLD)
    make(artifacts, key_of(2), {"a": b"2"}, finished=NOW, inputs=[key_of(1)])
    assert gc(artifacts) == set()


def test_blobs_within_the_grace_period_stay_until_they_are_older(artifacts: Artifacts) -> None:
    """A writer whose record is still to come would lose its files."""
    make(artifacts, key_of(1), {"a": b"young"}, age_days=0)
    plan = plan_gc(artifacts.store, RULES, keeping())
    assert plan.blobs == ()
    assert plan.too_young == 5
    assert gc(artifacts) == {key_of(1)}
    assert len(list(artifacts.store.blobs())) == 1
    make_older(artifacts.store, digest_bytes(b"young"), days=2)
    assert gc(artifacts) == set()
    assert list(artifacts.store.blobs()) == []


def test_a_blob_that_was_claimed_lately_counts_as_young(artifacts: Artifacts) -> None:
    """A writer that found it standing relies on it."""
    make(artifacts, key_of(1), {"a": b"old"})
    Claims(artifacts.store).claim(digest_bytes(b"old"))
    assert gc(artifacts) == {key_of(1)}
    assert artifacts.store.has_blob(digest_bytes(b"old"), 3)
    later = GcRules(keep_since=SINCE, grace_s=0)
    assert gc(artifacts, rules=later) == set()
    assert list(artifacts.store.blobs()) == []
    assert list(artifacts.store.list("gc/used")) == [], "old claims are swept"


def test_a_budget_takes_what_is_cheapest_to_rebuild_per_byte_and_no_more(artifacts: Artifacts) -> None:
    """A week of GPU time would go for the sake of a few bytes."""
    make(artifacts, key_of(1), {"a": b"a" * 100}, seconds=1000)
    make(artifacts, key_of(2), {"a": b"b" * 100}, seconds=1)
    make(artifacts, key_of(3), {"a": b"c" * 50}, seconds=1)
    make(artifacts, key_of(4), {"a": b"d" * 100}, seconds=10)
    assert gc(artifacts, rules=GcRules(keep_since=SINCE, budget_bytes=360)) == set()
    assert gc(artifacts, rules=GcRules(keep_since=SINCE, budget_bytes=250)) == {key_of(2)}
    assert gc(artifacts, rules=GcRules(keep_since=SINCE, budget_bytes=101)) == {key_of(3), key_of(4)}
    assert hits(artifacts) == {key_of(1)}


def test_a_budget_keeps_what_frees_nothing(artifacts: Artifacts) -> None:
    """An artifact whose blobs another one has would be lost for no byte."""
    make(artifacts, key_of(1), {"a": b"shared" * 10}, seconds=0.1)
    make(artifacts, key_of(2), {"a": b"shared" * 10, "b": b"own" * 30}, seconds=5)
    make(artifacts, key_of(3), {"a": b"x" * 100}, seconds=1)
    assert gc(artifacts, key_of(2), rules=GcRules(keep_since=SINCE, budget_bytes=150)) == {key_of(3)}
    assert hits(artifacts) == {key_of(1), key_of(2)}


def test_a_budget_that_cannot_be_reached_takes_all_that_may_go(artifacts: Artifacts) -> None:
    make(artifacts, key_of(1), {"a": b"1" * 100})
    make(artifacts, key_of(2), {"a": b"2" * 100})
    assert gc(artifacts, key_of(1), rules=GcRules(keep_since=SINCE, budget_bytes=10)) == {key_of(2)}


def test_what_was_set_aside_keeps_its_blobs_until_it_is_given_up(artifacts: Artifacts) -> None:
    """`--rerun` promises that the earlier result is kept."""
    first = make(artifacts, key_of(1), {"a": b"first"})
    second = make(artifacts, key_of(2), {"a": b"second"})
    artifacts.publish(type(second)(**{**vars(second), "key": key_of(1)}), replaces=record_mark(first))
    assert gc(artifacts, key_of(1), key_of(2)) == set()
    assert artifacts.store.has_blob(digest_bytes(b"first"), 5)
    plan = plan_gc(artifacts.store, GcRules(keep_since=SINCE, quarantine=True), keeping(key_of(1), key_of(2)))
    assert [blob.digest for blob in plan.blobs] == [digest_bytes(b"first")]
    gc(artifacts, key_of(1), key_of(2), rules=GcRules(keep_since=SINCE, quarantine=True))
    assert not artifacts.store.has_blob(digest_bytes(b"first"), 5)
    assert list(artifacts.store.list("quarantine/probe.echo")) == []


def test_one_gc_at_a_time(artifacts: Artifacts) -> None:
    """The second would take the list of the first away."""
    leases = Leases(artifacts.store, run="")
    leases.acquire("gc")
    plan = plan_gc(artifacts.store, RULES, keeping())
    with pytest.raises(UsageError, match="another gc"):
        apply_gc(artifacts.store, plan, RULES, keeping())
    leases.close()


def test_a_record_of_a_later_format_stops_it(artifacts: Artifacts) -> None:
    """A newer version writes to the same store: its blobs would look like garbage."""
    artifacts.store.create(f"artifacts/probe.echo/{key_of(1)}/record.json", b'{"format": 2}')
    with pytest.raises(StoreError, match="format 2"):
        plan_gc(artifacts.store, RULES, keeping())


def test_what_came_to_be_needed_after_the_preview_stays(artifacts: Artifacts) -> None:
    """Somebody gave it a name between the preview and the removal."""
    make(artifacts, key_of(1), {"a": b"1"})
    make(artifacts, key_of(2), {"a": b"2"})
    plan = plan_gc(artifacts.store, RULES, keeping())
    result = apply_gc(artifacts.store, plan, RULES, keeping(key_of(1)))
    assert [held.key for held in result.spared] == [key_of(1)]
    assert hits(artifacts) == {key_of(1)}


def test_a_record_that_was_made_again_after_the_preview_stays(artifacts: Artifacts) -> None:
    """It is not the one that was chosen."""
    first = make(artifacts, key_of(1), {"a": b"1"})
    plan = plan_gc(artifacts.store, RULES, keeping())
    other = make(artifacts, key_of(2), {"a": b"2"})
    artifacts.publish(type(other)(**{**vars(other), "key": key_of(1)}), replaces=record_mark(first))
    result = apply_gc(artifacts.store, plan, RULES, keeping())
    assert [held.key for held in result.spared] == [key_of(1)]
    assert hits(artifacts) == {key_of(1), key_of(2)}


CONTENTS = st.lists(st.integers(0, 12), max_size=4, unique=True)
NODES = st.lists(
    st.tuples(CONTENTS, st.lists(st.integers(0, 30), max_size=3), st.sampled_from([OLD, NOW]), st.floats(0, 100)),
    min_size=1,
    max_size=12,
)


@given(
    NODES,
    st.lists(st.integers(0, 30), max_size=2),
    st.lists(st.integers(0, 12), max_size=4, unique=True),
    st.none() | st.integers(0, 400),
    st.booleans(),
)
def test_no_blob_of_a_kept_record_goes_and_a_second_time_removes_nothing(
    nodes: list[tuple[list[int], list[int], str, float]],
    kept: list[int],
    unnamed: list[int],
    budget: int | None,
    quarantine: bool,  # noqa: FBT001 - drawn by hypothesis
) -> None:
    """Whatever shares whatever with whatever."""
    with tempfile.TemporaryDirectory() as folder:
        artifacts = Artifacts(LocalStore(Path(folder)))
        inputs: dict[str, set[str]] = {}
        for number, (contents, parents, finished, seconds) in enumerate(nodes):
            above = [key_of(parent % number) for parent in parents] if number else []
            files = {f"f{content}": b"%d" % content * (10 * content) for content in contents}
            make(artifacts, key_of(number), files, inputs=above, finished=finished, seconds=seconds)
            inputs[key_of(number)] = set(above).union(*(inputs[parent] for parent in above))
        for content in unnamed:
            record = make(artifacts, key_of(99), {"f": b"unnamed %d" % content})
            artifacts.store.delete(f"artifacts/{record.stage}/{record.key}/record.json")
        for claim in list(artifacts.store.list("gc/used")):
            artifacts.store.delete(f"gc/used/{claim}")
        roots = {key_of(number % len(nodes)) for number in kept}
        young = {key_of(number) for number, node in enumerate(nodes) if node[2] == NOW}
        rules = GcRules(keep_since=SINCE, budget_bytes=budget, quarantine=quarantine)
        before = hits(artifacts)

        gone = gc(artifacts, *roots, rules=rules)

        assert hits(artifacts) == before - gone
        protected = (roots | young).union(*(inputs[key] for key in roots | young))
        assert gone.isdisjoint(protected)
        if budget is None:
            assert gone == before - protected
        named = {file.digest for record in artifacts.all_records() for file in record.files.values()}
        blobs = {blob.digest: blob.size_bytes for blob in artifacts.store.blobs()}
        assert blobs.keys() == named
        if budget is not None and before - gone - protected:
            assert sum(blobs.values()) <= budget or all(
                artifacts.find("probe.echo", key).size_bytes == 0 or _frees_nothing(artifacts, key)
                for key in before - gone - protected
            )
        assert plan_gc(artifacts.store, rules, keeping(*roots)).is_empty
        assert gc(artifacts, *roots, rules=rules) == set()


def _frees_nothing(artifacts: Artifacts, key: str) -> bool:
    record = artifacts.find("probe.echo", key)
    others = {file.digest for other in artifacts.all_records() if other.key != key for file in other.files.values()}
    return all(file.digest in others for file in record.files.values())

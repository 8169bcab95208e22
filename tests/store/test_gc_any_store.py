"""Names, verifying and gc on every kind of store: they use nothing but what each of them promises."""

from __future__ import annotations

from collections.abc import Mapping

from made_artifacts import NOW, hits, key_of, taken
from servers import damage_blob

from orchestrator.store.artifacts import Artifacts
from orchestrator.store.base import Store, open_store
from orchestrator.store.claims import Claims
from orchestrator.store.gc import GcRules, apply_gc, plan_gc
from orchestrator.store.inventory import Inventory
from orchestrator.store.names import Names
from orchestrator.store.s3 import S3Store
from orchestrator.store.verify import verify_artifacts

RULES = GcRules(keep_since=NOW, grace_s=0)


def named(store: Store):
    def roots(_inventory: Inventory) -> Mapping[str, str]:
        return dict(Names(store).kept_keys())

    return roots


def test_gc_takes_what_has_no_name_and_leaves_the_rest_whole(store: Store) -> None:
    """What is safe in a folder has to be safe in a bucket."""
    artifacts = Artifacts(store)
    for number in (1, 2, 3):
        inputs = [key_of(1)] if number == 3 else []
        artifacts.publish(taken(artifacts, key_of(number), {"a": b"%d" % number, "b": b"both"}, inputs=inputs))
    third = artifacts.find("probe.echo", key_of(3))
    assert third is not None
    assert str(Names(store).promote(third, "third-one")) == "third-one@1"
    for digest in list(store.list("gc/used")):
        store.delete(f"gc/used/{digest}")
    assert verify_artifacts(store, None).num_sound == 3
    plan = plan_gc(store, RULES, named(store))
    result = apply_gc(store, plan, RULES, named(store))
    assert [held.key for held in result.removed] == [key_of(2)]
    assert (result.num_blobs, result.freed_bytes) == (1, 1)
    fresh = Artifacts(open_store(store.url))
    assert hits(fresh) == {key_of(1), key_of(3)}
    assert fresh.find("probe.echo", key_of(2)) is None
    assert {blob.size_bytes for blob in store.blobs()} == {1, 4}
    assert plan_gc(store, RULES, named(store)).is_empty


def test_a_claim_keeps_a_blob_on_every_kind_of_store(store: Store) -> None:
    """A writer that found it standing relies on it."""
    artifacts = Artifacts(store)
    record = artifacts.publish(taken(artifacts, key_of(1), {"a": b"content"}))
    (file,) = record.files.values()
    Claims(store).claim(file.digest)
    Claims(store).claim(file.digest)
    rules = GcRules(keep_since=NOW, grace_s=600)
    result = apply_gc(store, plan_gc(store, rules, named(store)), rules, named(store))
    assert len(result.removed) == 1
    assert store.has_blob(file.digest, file.size_bytes)
    assert Claims(store).used(within_s=600) == {file.digest}
    assert Claims(store).used(within_s=0) == set()
    assert list(store.list("gc/used")) == []


def test_verify_reads_what_the_store_holds_and_no_copy_of_this_machine(store: Store) -> None:
    """A bucket that lost bytes would be called whole by the one machine that has them in its cache."""
    artifacts = Artifacts(store)
    record = artifacts.publish(taken(artifacts, key_of(1), {"a": b"content"}))
    artifacts.open(record)
    digest = record.files["a"].digest
    if isinstance(store, S3Store):
        store.client.put(f"blobs/{digest[:2]}/{digest}", b"conteXt")
    else:
        damage_blob(store, digest, b"conteXt")
    found = verify_artifacts(store, None)
    assert [problem.what for problem in found.problems] == ["a is damaged"]
    assert artifacts.find(record.stage, record.key) is None
    assert not store.has_blob(digest, 7)

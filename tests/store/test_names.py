"""Names and pins: a version means one artifact for ever."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_artifacts import key_of, make

from orchestrator.errors import UsageError
from orchestrator.store.artifacts import Artifacts
from orchestrator.store.local import LocalStore
from orchestrator.store.names import Names, check_name


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(LocalStore(tmp_path / "store"))


def test_each_promotion_is_the_next_version_and_the_earlier_ones_stay(artifacts: Artifacts) -> None:
    """A link in a paper would mean another model than when it was written."""
    names = Names(artifacts.store)
    first, second = (make(artifacts, key_of(number), {"a": b"%d" % number}) for number in (1, 2))
    assert str(names.promote(first, "vit-sparse", note="paper")) == "vit-sparse@1"
    assert str(names.promote(second, "vit-sparse")) == "vit-sparse@2"
    assert str(names.promote(first, "vit-sparse")) == "vit-sparse@3"
    found = {text: mark.key for text in ("vit-sparse", "vit-sparse@1", "vit-sparse@2") if (mark := names.find(text))}
    assert found == {"vit-sparse": first.key, "vit-sparse@1": first.key, "vit-sparse@2": second.key}
    assert [mark.note for mark in names.all_names()] == ["paper", "", ""]
    assert names.find("vit-sparse@4") is None
    assert names.find("other") is None


def test_promoting_what_the_newest_version_means_already_changes_nothing(artifacts: Artifacts) -> None:
    """A script that runs every night would count up for ever."""
    record = make(artifacts, key_of(1), {"a": b"1"})
    names = Names(artifacts.store)
    assert names.promote(record, "base") == names.promote(record, "base")
    assert len(names.versions("base")) == 1


def test_every_one_of_many_promoters_gets_a_version_of_its_own(artifacts: Artifacts, race) -> None:
    """Two people promote at the same moment: neither may lose."""
    records = [make(artifacts, key_of(number), {"a": b"%d" % number}) for number in range(6)]
    versions = race(6, lambda number: Names(artifacts.store).promote(records[number], "best-of-all").version)
    assert sorted(versions) == [1, 2, 3, 4, 5, 6]
    assert [mark.version for mark in Names(artifacts.store).versions("best-of-all")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "name", ["", "A", "1st", "../up", "a/b", "a@1", "a b", "-rf", ".hidden", "ü", "a\n", "x" * 65, "@last"]
)
def test_odd_names_are_refused(name: str) -> None:
    """It becomes a file, a part of an address and a word in a shell."""
    with pytest.raises(UsageError, match="cannot be a name"):
        check_name(name)


@pytest.mark.parametrize("name", ["a", "beef", "c0ffee", "f00"])
def test_a_name_that_could_be_the_beginning_of_a_key_is_refused(name: str) -> None:
    """One day an artifact's key would begin so, and mean something else."""
    with pytest.raises(UsageError, match="beginning of a key"):
        check_name(name)


def test_what_is_gone_gets_no_name(artifacts: Artifacts) -> None:
    """The name would promise what nobody has."""
    record = make(artifacts, key_of(1), {"a": b"1"})
    artifacts.store.delete(f"artifacts/probe.echo/{record.key}/record.json")
    with pytest.raises(UsageError, match="is gone from the store"):
        Names(artifacts.store).promote(record, "lost-one")
    with pytest.raises(UsageError, match="is gone from the store"):
        Names(artifacts.store).pin(record)
    assert list(artifacts.store.list("names")) == []
    assert Names(artifacts.store).all_pins() == []


def test_a_pin_stands_until_it_is_taken_away(artifacts: Artifacts) -> None:
    names = Names(artifacts.store)
    record = make(artifacts, key_of(1), {"a": b"1"})
    pin = names.pin(record, note="for Ann")
    assert names.pin(record, note="again") == pin
    assert dict(names.kept_keys()) == {record.key: "pinned"}
    assert names.unpin(record.key)
    assert not names.unpin(record.key)
    assert names.all_pins() == []


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"format": 9}', b'{"format": 1, "odd": 2}'])
def test_a_damaged_version_is_passed_over_and_never_written_again(artifacts: Artifacts, damage: bytes) -> None:
    """A version means one artifact for ever, also one that cannot be read any more."""
    record = make(artifacts, key_of(1), {"a": b"1"})
    artifacts.store.create("names/base/1", damage)
    names = Names(artifacts.store)
    assert names.find("base") is None
    assert names.promote(record, "base").version == 2
    assert names.find("base@1") is None


def test_a_version_that_was_taken_away_never_means_another_artifact(artifacts: Artifacts) -> None:
    """A link to it must lead nowhere rather than to something else."""
    names = Names(artifacts.store)
    first, second = (make(artifacts, key_of(number), {"a": b"%d" % number}) for number in (1, 2))
    names.promote(first, "vit")
    mark = names.promote(second, "vit")
    assert names.unname(mark)
    assert not names.unname(mark)
    assert names.find("vit@2") is None
    assert names.find("vit") == names.find("vit@1")
    assert str(names.promote(second, "vit")) == "vit@3"
    assert {key for key, _ in names.kept_keys()} == {first.key, second.key}
    for each in names.versions("vit"):
        assert names.unname(each)
    assert names.all_names() == []
    assert list(names.kept_keys()) == []
    assert str(names.promote(first, "vit")) == "vit@4"

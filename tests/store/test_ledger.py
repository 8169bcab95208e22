"""The ledger: what is whole is read, what is torn waits or is left out, and runs are found by short names."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import UsageError
from orchestrator.store.ledger import Ledger
from orchestrator.store.local import LocalStore


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(LocalStore(tmp_path / "store"))


def begin(ledger: Ledger, number: int, monkeypatch: pytest.MonkeyPatch | None = None) -> str:
    if monkeypatch is not None:
        monkeypatch.setattr("orchestrator.store.ledger.now_text", lambda: f"2026-01-01T00:00:{number:02d}.000Z")
    return ledger.begin({"number": number})


def test_events_come_back_in_order_and_from_an_offset(ledger: Ledger) -> None:
    """`status` and the live view fold them one after the other."""
    run = begin(ledger, 1)
    ledger.write(run, [{"type": "a"}, {"type": "b"}])
    events, offset = ledger.events(run)
    assert [event["type"] for event in events] == ["a", "b"]
    ledger.write(run, [])
    ledger.write(run, [{"type": "c"}])
    events, offset = ledger.events(run, offset=offset)
    assert [event["type"] for event in events] == ["c"]
    assert ledger.events(run, offset=offset) == ([], offset)


def test_a_line_that_is_still_being_written_waits(ledger: Ledger) -> None:
    """A reader that comes in the middle of a write must see the event later, whole, and once."""
    run = begin(ledger, 1)
    ledger.write(run, [{"type": "a"}])
    ledger.store.append(f"runs/{run}/events.jsonl", b'{"type": "b", "x')
    events, offset = ledger.events(run)
    assert [event["type"] for event in events] == ["a"]
    ledger.store.append(f"runs/{run}/events.jsonl", b'": 1}\n')
    events, _ = ledger.events(run, offset=offset)
    assert events == [{"type": "b", "x": 1}]


@pytest.mark.parametrize("torn", [b'{"type": "b"', b"\0" * 40, b"12", b"[]", b'"text"', b"\xff\xfe"])
def test_a_torn_line_is_left_out_and_the_rest_is_read(ledger: Ledger, torn: bytes) -> None:
    """After a loss of power `status` must still tell what is known."""
    run = begin(ledger, 1)
    ledger.write(run, [{"type": "a"}])
    ledger.store.append(f"runs/{run}/events.jsonl", torn + b"\n")
    ledger.write(run, [{"type": "c"}])
    assert [event["type"] for event in ledger.events(run)[0]] == ["a", "c"]


def test_a_run_is_found_by_a_unique_beginning(ledger: Ledger) -> None:
    """Ids are typed by hand."""
    run, other = begin(ledger, 1), begin(ledger, 2)
    assert ledger.resolve(run) == run
    length = next(n for n in range(1, 9) if not other.startswith(run[:n]))
    assert ledger.resolve(run[:length]) == run


@pytest.mark.parametrize("name", ["", "zzzzzzzz!", "@first", "../x", "/"])
def test_a_name_that_means_nothing_says_so(ledger: Ledger, name: str) -> None:
    """A typing error must not act on some other run."""
    begin(ledger, 1)
    with pytest.raises(UsageError):
        ledger.resolve(name)


def test_an_ambiguous_beginning_lists_what_it_could_be(ledger: Ledger) -> None:
    """Cancelling the wrong run costs hours."""
    for run in ("abcd2345", "abcd6789"):
        ledger.store.create(f"runs/{run}/run.json", b'{"id": "%s", "created": "x"}' % run.encode())
    with pytest.raises(UsageError, match="abcd2345, abcd6789"):
        ledger.resolve("abcd")


def test_last_and_last_failed_are_the_newest(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """`logs @last-failed` is what one types after a failure."""
    with pytest.raises(UsageError):
        ledger.resolve("@last")
    runs = [begin(ledger, number, monkeypatch) for number in range(3)]
    for run, state in zip(runs, ("failed", "failed", "done"), strict=True):
        ledger.write(run, [{"type": "run_started"}, {"type": "run_finished", "state": state}])
    assert ledger.resolve("@last") == runs[2]
    assert ledger.resolve("@last-failed") == runs[1]
    assert [request.id for request in ledger.runs()] == runs[::-1]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}", b"null"])
def test_a_damaged_request_hides_no_other_run(ledger: Ledger, damage: bytes) -> None:
    """A loss of power while a run began would make `ls` and @last fail for ever."""
    run = begin(ledger, 1)
    ledger.store.create("runs/damaged2/run.json", damage)
    assert [request.id for request in ledger.runs()] == [run]
    assert ledger.resolve("@last") == run
    with pytest.raises(UsageError, match="no run"):
        ledger.request("damaged2")


def test_a_run_is_claimed_before_it_can_be_seen(ledger: Ledger) -> None:
    """`status` would call a run interrupted that has just begun."""
    seen = []
    run = ledger.begin({}, claim=lambda run: seen.append((run, ledger.runs())))
    assert seen == [(run, [])]


def test_cancellation_is_a_mark_that_stays(ledger: Ledger) -> None:
    """Two users may cancel; whoever drives the run may look late."""
    run = begin(ledger, 1)
    assert not ledger.is_cancel_asked(run)
    ledger.ask_to_cancel(run)
    ledger.ask_to_cancel(run)
    assert ledger.is_cancel_asked(run)


def test_logs_are_kept_by_attempt(ledger: Ledger) -> None:
    """What the first attempt printed tells why there was a second."""
    run = begin(ledger, 1)
    for attempt in (1, 2, 10):
        with ledger.log_file(run, "n", attempt) as path:
            path.write_text(f"attempt {attempt}")
    ledger.write_progress(run, "n", attempt=1, step=1, total=2, metrics={"loss": 0.5})
    assert ledger.log_attempts(run, "n") == [1, 2, 10]
    assert ledger.read_log(run, "n", 10) == b"attempt 10"
    assert ledger.read_log(run, "n", 3) == b""
    assert [line["step"] for line in ledger.progress(run, "n")[0]] == [1]

"""A run is killed at every point at which it changes the disk or asks a server; the next one ends as if nothing had been."""

from __future__ import annotations

from pathlib import Path

import pytest
from servers import environment, started

MORE_POINTS_THAN_THERE_ARE = 5000
DISK = "kill at a change of the disk"
REQUESTS = "kill at a request to S3"


@pytest.mark.parametrize(("first", "step"), [(1, 6), *(pytest.param(first, 2, marks=pytest.mark.chaos) for first in (1, 2))])
def test_a_kill_before_any_change_of_the_disk_costs_nothing_that_was_finished(
    folder: Path, series, tally, first: int, step: int
) -> None:
    """Power, preemption, a colleague's kill -9: no half record, no lost checkpoint, no finished node made again, no litter."""
    answer = series("kill_series.py", folder, first, step, MORE_POINTS_THAN_THERE_ARE)
    tally.add(DISK, answer["kills"], problems=answer["problems"])
    assert answer["ended"]
    assert answer["kills"] > 160 / step


def test_a_kill_in_the_middle_of_a_write_costs_nothing_that_was_finished(folder: Path, series, tally) -> None:
    """The half-written file must never be seen under its final name."""
    answer = series("kill_series.py", folder, 3, 11, MORE_POINTS_THAN_THERE_ARE, "half")
    tally.add(f"{DISK}, in its middle", answer["kills"], problems=answer["problems"])
    assert answer["ended"]


def test_a_resumed_run_that_is_killed_too_costs_nothing_either(folder: Path, series, tally) -> None:
    """Preemption comes in series."""
    answer = series("kill_series.py", folder, "double", 0, 20, 210)
    tally.seed = "0"
    tally.add(f"{DISK}, twice", answer["kills"], problems=answer["problems"])
    assert answer["kills"] > 20


@pytest.mark.xdist_group("s3-moto")
@pytest.mark.parametrize("how", ["before", "after"])
def test_a_kill_at_a_request_to_s3_costs_nothing_that_was_finished(folder: Path, place: str, series, tally, how: str) -> None:
    """Before it was sent, and after it was served: records, leases, parts of large objects, logs."""
    with environment(started("moto").variables):
        answer = series("kill_series.py", folder, *((9, 31) if how == "after" else (4, 31)), 5000, "requests", place, how)
    tally.add(f"{REQUESTS}, {how} it", answer["kills"], problems=answer["problems"])
    assert answer["ended"]
    assert answer["kills"] >= 4


@pytest.mark.chaos
@pytest.mark.xdist_group("s3-moto")
@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("first", [1, 2])
def test_every_request_to_s3_can_be_the_last(folder: Path, place: str, series, tally, first: int, how: str) -> None:
    """All of them."""
    with environment(started("moto").variables):
        answer = series("kill_series.py", folder, first, 2, MORE_POINTS_THAN_THERE_ARE, "requests", place, how)
    tally.add(f"{REQUESTS}, {how} it", answer["kills"], problems=answer["problems"])
    assert answer["ended"]


@pytest.mark.chaos
@pytest.mark.xdist_group("s3-moto")
def test_another_machine_goes_on_where_one_was_lost(folder: Path, place: str, series, tally) -> None:
    """It cannot know that the process is dead; it waits until the beat has stood still."""
    with environment(started("moto").variables):
        answer = series("kill_series.py", folder, 3, 8, MORE_POINTS_THAN_THERE_ARE, "requests", place, "elsewhere")
    tally.add(f"{REQUESTS}, another machine goes on", answer["kills"], problems=answer["problems"])
    assert answer["ended"]


@pytest.mark.chaos
@pytest.mark.xdist_group("s3-moto")
@pytest.mark.parametrize("seed", [1, 2])
def test_double_kills_on_s3(folder: Path, place: str, series, tally, seed: int) -> None:
    """Preemption comes in series there too."""
    with environment(started("moto").variables):
        answer = series("kill_series.py", folder, "double", seed, 15, 120, "requests", place)
    tally.seed = str(seed)
    tally.add(f"{REQUESTS}, twice", answer["kills"], problems=answer["problems"])


@pytest.mark.chaos
def test_every_write_can_be_cut_in_half(folder: Path, series, tally) -> None:
    """All of them."""
    answer = series("kill_series.py", folder, 1, 1, MORE_POINTS_THAN_THERE_ARE, "half")
    tally.add(f"{DISK}, in its middle", answer["kills"], problems=answer["problems"])


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(1, 4))
def test_many_double_kills(folder: Path, series, tally, seed: int) -> None:
    """Three hundred pairs of kills in all."""
    answer = series("kill_series.py", folder, "double", seed, 100, 210)
    tally.seed = str(seed)
    tally.add(f"{DISK}, twice", answer["kills"], problems=answer["problems"])

"""A run with a search is killed at every point at which it changes the disk; submitted again it ends as if nothing had been."""

from __future__ import annotations

from pathlib import Path

import pytest

MORE_POINTS_THAN_THERE_ARE = 5000
KIND = "kill of a search at a change of the disk"


def test_a_killed_search_goes_on_as_if_it_had_not_been_killed(folder: Path, series, tally) -> None:
    """No finished node or trial again, running ones from what they saved, the same suggestions, early stops and result."""
    answer = series("sweep_kills.py", folder, 5, 37, MORE_POINTS_THAN_THERE_ARE)
    tally.add(KIND, answer["kills"], problems=answer["problems"])
    assert answer["ended"]
    assert answer["kills"] > 15


@pytest.mark.chaos
@pytest.mark.parametrize("how", [(), ("half",)])
def test_a_search_can_be_killed_anywhere(folder: Path, series, tally, how: tuple[str, ...]) -> None:
    """Every seventh change of the disk, whole and half done."""
    answer = series("sweep_kills.py", folder, 4 if how else 1, 11, MORE_POINTS_THAN_THERE_ARE, *how)
    tally.add(f"{KIND}, in its middle" if how else KIND, answer["kills"], problems=answer["problems"])
    assert answer["ended"]


@pytest.mark.chaos
@pytest.mark.parametrize("seed", [0, 1])
def test_a_search_survives_many_double_kills(folder: Path, series, tally, seed: int) -> None:
    """A second kill while the first is made up for."""
    answer = series("sweep_kills.py", folder, "double", seed, 15, 740)
    tally.seed = str(seed)
    tally.add(f"{KIND}, twice", answer["kills"], problems=answer["problems"])
    assert answer["kills"] > 15

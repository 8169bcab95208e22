"""A run with a search is killed at every point at which it changes the disk; submitted again it ends as if nothing had been."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SERIES = Path(__file__).with_name("sweep_kills.py")
MORE_POINTS_THAN_THERE_ARE = 5000


@pytest.fixture
def folder() -> Iterator[Path]:
    memory = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="kill-", dir=memory if memory.is_dir() else None))
    yield place
    shutil.rmtree(place)


def series(*arguments: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(SERIES), *map(str, arguments)], capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_a_killed_search_goes_on_as_if_it_had_not_been_killed(folder: Path) -> None:
    """No finished node or trial again, running ones from what they saved, the same suggestions, early stops and result."""
    answer = series(folder, 5, 31, MORE_POINTS_THAN_THERE_ARE)
    assert answer["problems"] == []
    assert answer["ended"]
    assert answer["kills"] > 20


@pytest.mark.chaos
def test_a_search_that_is_killed_in_the_middle_of_a_write_or_twice_goes_on_too(folder: Path) -> None:
    """Half a record of a trial, half a result; and a second kill while the first is made up for."""
    answer = series(folder / "half", 11, 83, MORE_POINTS_THAN_THERE_ARE, "half")
    assert answer["problems"] == []
    assert answer["ended"]
    answer = series(folder / "double", "double", 0, 5)
    assert answer["problems"] == []
    assert answer["kills"] > 5


@pytest.mark.chaos
@pytest.mark.parametrize("first", range(1, 5))
@pytest.mark.parametrize("half", [(), ("half",)])
def test_a_search_can_be_killed_anywhere(folder: Path, first: int, half: tuple[str, ...]) -> None:
    """Every change of the disk, whole and half done."""
    assert series(folder, first, 4, MORE_POINTS_THAN_THERE_ARE, *half)["problems"] == []


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(1, 5))
def test_a_search_survives_many_double_kills(folder: Path, seed: int) -> None:
    """Two hundred pairs."""
    assert series(folder, "double", seed, 50)["problems"] == []

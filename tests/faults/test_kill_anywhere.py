"""A run is killed at every point at which it changes the disk; submitting again must end as if nothing had happened."""

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

SERIES = Path(__file__).with_name("kill_series.py")
MORE_POINTS_THAN_THERE_ARE = 5000


@pytest.fixture
def folder() -> Iterator[Path]:
    """On a memory disk where there is one: only what is written counts here, not what it costs."""
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


@pytest.mark.parametrize("first", [1, 2])
def test_a_kill_before_any_change_of_the_disk_costs_nothing_that_was_finished(folder: Path, first: int) -> None:
    """Power, preemption, a colleague's kill -9: no half record, no lost checkpoint, no finished node made again, no litter."""
    answer = series(folder, first, 2, MORE_POINTS_THAN_THERE_ARE)
    assert answer["problems"] == []
    assert answer["ended"]
    assert answer["kills"] > 80


def test_a_kill_in_the_middle_of_a_write_costs_nothing_that_was_finished(folder: Path) -> None:
    """The half-written file must never be seen under its final name."""
    answer = series(folder, 3, 11, MORE_POINTS_THAN_THERE_ARE, "half")
    assert answer["problems"] == []
    assert answer["ended"]


def test_a_resumed_run_that_is_killed_too_costs_nothing_either(folder: Path) -> None:
    """Preemption comes in series."""
    answer = series(folder, "double", 0, 20)
    assert answer["problems"] == []
    assert answer["kills"] > 20


@pytest.mark.chaos
def test_every_write_can_be_cut_in_half(folder: Path) -> None:
    """All of them."""
    assert series(folder, 1, 1, MORE_POINTS_THAN_THERE_ARE, "half")["problems"] == []


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(1, 6))
def test_many_double_kills(folder: Path, seed: int) -> None:
    """Five hundred pairs of kills in all."""
    assert series(folder, "double", seed, 100)["problems"] == []

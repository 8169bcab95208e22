"""The front against brute force, its area, and its knee."""

from __future__ import annotations

import itertools
import math
import time

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.sweeps.pareto import front, hypervolume, knee, ranks

DIRECTIONS = st.lists(st.sampled_from(["maximize", "minimize"]), min_size=1, max_size=4)
VALUE = st.one_of(st.integers(0, 4), st.floats(-1, 1), st.sampled_from([None, math.nan, math.inf]))


@st.composite
def clouds(draw, *, value=VALUE):
    directions = draw(DIRECTIONS)
    points = draw(st.lists(st.tuples(*[value] * len(directions)), max_size=30))
    return points, directions


def is_known(point):
    return all(value is not None and math.isfinite(value) for value in point)


def dominates(one, other, directions) -> bool:
    pairs = [(a, b) if direction == "minimize" else (-a, -b) for a, b, direction in zip(one, other, directions, strict=True)]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


@given(clouds())
def test_ranks_are_those_of_peeling_fronts_by_hand(cloud):
    points, directions = cloud
    expected: list[int | None] = [None] * len(points)
    left = {index for index, point in enumerate(points) if is_known(point)}
    for rank in itertools.count():
        if not left:
            break
        best = {i for i in left if not any(dominates(points[j], points[i], directions) for j in left)}
        for index in best:
            expected[index] = rank
        left -= best
    assert ranks(points, directions=directions) == expected


@given(clouds())
def test_the_front_starts_with_the_best_first_objective_and_holds_all_equal_points(cloud):
    points, directions = cloud
    found = front(points, directions=directions)
    firsts = [points[index][0] for index in found]
    assert firsts == sorted(firsts, reverse=directions[0] == "maximize")
    assert {points[index] for index in found} == {
        point
        for point in points
        if is_known(point) and not any(dominates(other, point, directions) for other in points if is_known(other))
    }
    assert sum(points[index] in {points[other] for other in found} for index in range(len(points))) == len(found)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_the_area_is_the_number_of_unit_squares_that_are_dominated(points):
    squares = {(x, y) for x in range(6) for y in range(6) if any(x < a and y < b for a, b in points)}
    assert hypervolume(points, reference=(0, 0), directions=("maximize", "maximize")) == len(squares)
    turned = [(-a, b) for a, b in points]
    assert hypervolume(turned, reference=(0, 0), directions=("minimize", "maximize")) == len(squares)


def test_the_knee_is_the_point_that_gives_up_least_of_either():
    points = [(1.0, 100), (0.98, 20), (0.5, 10), (0.4, 90)]
    assert knee(points, directions=("maximize", "minimize")) == 1
    assert knee([], directions=("maximize",)) is None
    assert knee([(None, 1)], directions=("maximize", "minimize")) is None


def test_ten_thousand_trials_are_sorted_in_seconds():
    """The report of a large search must not hang."""
    points = [(math.sin(i * 12.9898) % 1, math.sin(i * 78.233) % 1, math.sin(i * 37.719) % 1) for i in range(10_000)]
    started = time.process_time()
    found = ranks(points, directions=("maximize",) * 3)
    assert time.process_time() - started < 20
    assert 0 < sum(rank == 0 for rank in found) < 1000
    assert max(rank or 0 for rank in ranks([(i, i) for i in range(2_000)], directions=("maximize",) * 2)) == 1_999

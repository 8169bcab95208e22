"""The searched space: which parameters are active, which values they take, and the order of the grid."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.sweeps.searcher import generator, random_values
from orchestrator.sweeps.space import Space, values_text
from orchestrator.workflow.sweep_spec import Distribution

CONDITIONAL = {
    "train.momentum": Distribution(choice=(0.8, 0.9), when={"train.optimizer": ("sgd",)}),
    "train.optimizer": Distribution(choice=("sgd", "adam")),
    "train.nesterov": Distribution(choice=(True, False), when={"train.momentum": (0.9,)}),
    "train.epochs": Distribution(int=(2, 8), step=3),
}

PARAMETER = st.one_of(
    st.lists(st.one_of(st.booleans(), st.integers(-3, 3), st.sampled_from(["a", "b"])), min_size=1, max_size=4).map(
        lambda values: Distribution(choice=tuple(values))
    ),
    st.tuples(st.integers(-5, 5), st.integers(0, 6), st.sampled_from([None, 1, 2])).map(
        lambda found: Distribution(int=(found[0], found[0] + found[1]), step=found[2])
    ),
    st.tuples(st.floats(-2, 2), st.floats(0, 3), st.sampled_from([0.1, 0.25, 0.7])).map(
        lambda found: Distribution(uniform=(round(found[0], 2), round(found[0], 2) + round(found[1], 2)), step=found[2])
    ),
)


@st.composite
def finite_spaces(draw) -> Space:
    distributions = {f"n.p{index}": draw(PARAMETER) for index in range(draw(st.integers(1, 4)))}
    for index, (name, distribution) in enumerate(list(distributions.items())):
        before = [other for other in list(distributions)[:index] if distributions[other].choice is not None]
        if before and draw(st.booleans()):
            other = draw(st.sampled_from(before))
            distributions[name] = distribution.model_copy(update={"when": {other: distributions[other].choice[:1]}})
    names = draw(st.permutations(list(distributions)))
    return Space({name: distributions[name] for name in names})


def test_a_step_grid_has_round_numbers():
    """0.30000000000000004 in a table, and in a key that nobody can type again."""
    (only,) = Space({"n.x": Distribution(uniform=(0, 0.5), step=0.1)}).options.values()
    assert only == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


def test_a_step_that_does_not_divide_the_range_ends_below_it():
    assert Space({"n.x": Distribution(uniform=(0, 1), step=0.4)}).options["n.x"] == (0.0, 0.4, 0.8)
    assert list(Space({"n.x": Distribution(int=(1, 6), step=2)}).options["n.x"]) == [1, 3, 5]


def test_the_grid_leaves_out_parameters_whose_condition_does_not_hold():
    """The same trial would run several times under different names."""
    points = list(Space(CONDITIONAL).grid())
    assert {"train.optimizer": "adam", "train.epochs": 2} in points
    assert {"train.optimizer": "sgd", "train.momentum": 0.8, "train.epochs": 5} in points
    assert {"train.optimizer": "sgd", "train.momentum": 0.9, "train.nesterov": False, "train.epochs": 8} in points
    assert len(points) == Space(CONDITIONAL).size == (1 + 1 + 2) * 3


def test_the_grid_visits_the_last_parameter_fastest():
    points = list(Space({"a.x": Distribution(choice=(2, 1)), "a.y": Distribution(choice=("u", "v"))}).grid())
    assert [list(point.values()) for point in points] == [[2, "u"], [2, "v"], [1, "u"], [1, "v"]]


def test_the_order_of_the_file_changes_nothing():
    """Two files with the same key would search different settings."""
    turned = Space(dict(reversed(CONDITIONAL.items())))
    assert list(turned.grid()) == list(Space(CONDITIONAL).grid())
    assert random_values(turned, generator(1)) == random_values(Space(CONDITIONAL), generator(1))


def test_a_large_space_is_counted_without_visiting_it():
    """The size is asked when a plan is made."""
    space = Space({f"n.p{index}": Distribution(int=(1, 10**9)) for index in range(6)})
    assert space.size == 10**54
    assert space.contains(random_values(space, generator(1)))
    assert not space.contains({f"n.p{index}": 0 for index in range(6)})
    assert Space({"n.x": Distribution(uniform=(0, 1))}).size is None


def test_true_is_not_the_number_one():
    space = Space({"n.x": Distribution(choice=(1, "1"))})
    assert space.contains({"n.x": 1})
    assert not space.contains({"n.x": True})
    assert values_text({"n.x": 1}) == values_text({"n.x": 1.0}) != values_text({"n.x": True})


def test_values_outside_of_the_space_are_told_from_those_inside():
    """A record from a wider search would count in a narrower one."""
    space = Space(CONDITIONAL)
    assert space.contains({"train.optimizer": "adam", "train.epochs": 5})
    assert not space.contains({"train.optimizer": "adam", "train.epochs": 6})
    assert not space.contains({"train.optimizer": "adam", "train.epochs": 5, "train.momentum": 0.9})
    assert not space.contains({"train.optimizer": "sgd", "train.epochs": 5})
    assert not space.contains({"train.optimizer": "adam"})
    lr = Space({"n.lr": Distribution(loguniform=(1e-4, 1e-1))})
    assert lr.contains({"n.lr": 0.01})
    assert not any(lr.contains({"n.lr": value}) for value in (1.0, "0.01", True, None, float("nan")))


def test_choices_may_be_lists_and_mappings():
    space = Space({"n.layers": Distribution(choice=([1, 2], {"b": 1, "a": 2}))})
    assert list(space.grid()) == [{"n.layers": [1, 2]}, {"n.layers": {"a": 2, "b": 1}}]
    assert space.contains({"n.layers": [1, 2]})


def test_conditions_in_a_circle_are_refused():
    with pytest.raises(ValueError, match=r"n\.a, n\.b wait for each other"):
        Space(
            {
                "n.a": Distribution(choice=(1,), when={"n.b": (1,)}),
                "n.b": Distribution(choice=(1,), when={"n.a": (1,)}),
            }
        )


@given(finite_spaces())
def test_the_grid_has_as_many_points_as_its_size_says_and_all_lie_in_the_space(space):
    points = list(space.grid())
    assert len(points) == space.size
    assert all(space.contains(point) for point in points)
    assert points == list(space.grid())


@given(finite_spaces(), st.integers(0, 1000))
def test_random_values_are_points_of_the_grid(space, seed):
    values = random_values(space, generator(seed))
    assert values in list(space.grid())


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(0, 1000))
def test_drawn_numbers_lie_within_their_bounds_and_survive_a_file(low, width, seed):
    space = Space({"n.x": Distribution(uniform=(low, low + width)), "n.y": Distribution(loguniform=(1e-9, 3.3e-2))})
    values = random_values(space, generator(seed))
    assert space.contains(values)
    assert json.loads(json.dumps(values)) == values

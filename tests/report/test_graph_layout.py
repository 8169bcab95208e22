"""Laying out a graph: edges go down, nodes keep their distance, and simple graphs come out as a person would draw them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.report.graph_layout import lay_out


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[str], list[tuple[str, str]]]:
    names = [f"n{index}" for index in range(draw(st.integers(0, 9)))]
    pairs = [(upper, lower) for index, upper in enumerate(names) for lower in names[index + 1 :]]
    return names, draw(st.lists(st.sampled_from(pairs), max_size=20)) if pairs else []


@given(graphs())
def test_every_edge_goes_down_and_nodes_of_a_layer_keep_their_distance(graph: tuple[list[str], list[tuple[str, str]]]) -> None:
    names, edges = graph
    layout = lay_out(names, edges)
    assert sorted(name for layer in layout.layers for name in layer) == sorted(names)
    for (parent, child), route in layout.routes.items():
        assert (route[0], route[-1]) == (layout.places[parent], layout.places[child])
        assert [place.layer for place in route] == list(range(route[0].layer, route[-1].layer + 1))
    for layer in layout.layers:
        across = [layout.places[name].across for name in layer]
        assert all(right - left >= 1 - 1e-2 for left, right in pairwise(across))
    assert all(0 <= place.across < layout.width for place in layout.places.values())


def test_a_chain_is_straight() -> None:
    layout = lay_out(["a", "b", "c"], [("a", "b"), ("b", "c")])
    assert layout.layers == (("a",), ("b",), ("c",))
    assert {place.across for place in layout.places.values()} == {0.0}


def test_a_parent_stands_above_the_middle_of_its_children() -> None:
    places = lay_out(["top", "x", "y", "z"], [("top", name) for name in "xyz"]).places
    assert places["top"].across == pytest.approx(places["y"].across, abs=0.01)


def test_a_crossing_that_can_be_avoided_is() -> None:
    layout = lay_out(["a", "b", "x", "y"], [("a", "y"), ("b", "x")])
    assert [layout.layers[1].index(name) for name in ("y", "x")] == [layout.layers[0].index(name) for name in ("a", "b")]


def test_an_edge_past_a_layer_goes_around_the_nodes_in_it() -> None:
    layout = lay_out(["a", "b", "c"], [("a", "b"), ("b", "c"), ("a", "c")])
    (_, middle, _) = layout.routes["a", "c"]
    assert abs(middle.across - layout.places["b"].across) > 0.6


def test_a_cycle_and_an_unknown_end_are_refused() -> None:
    with pytest.raises(ValueError, match="cycle through a, b"):
        lay_out(["a", "b"], [("a", "b"), ("b", "a")])
    with pytest.raises(ValueError, match="no node"):
        lay_out(["a"], [("a", "b")])


def test_nothing_is_laid_out_as_nothing() -> None:
    layout = lay_out([], [])
    assert (layout.layers, layout.width) == ((), 0.0)

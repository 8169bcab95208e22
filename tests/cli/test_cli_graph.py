"""Pictures of workflows and runs: the same boxes and edges in every format, states of a run in words."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from cli_calls import Cli

EDGES = [
    ["base", "search.draw"], ["search.draw", "search.score"], ["search.score", "search"], ["search", "after"],
]  # fmt: skip


def test_the_text_is_a_tree_in_which_every_node_stands_once(cli: Cli) -> None:
    Path("chain.yaml").write_text(
        Path("chain.yaml").read_text() + "  apart: {stage: probe.echo, inputs: {inputs: [first, last]}}\n"
    )
    assert cli("graph", "chain.yaml").out.splitlines() == [
        "chain  4 nodes",
        "first           probe.echo",
        "└─ middle       probe.echo  value: 1, 2",
        "   └─ last      probe.echo",
        "      └─ apart  probe.echo  also needs first",
    ]
    assert not Path(".orchestrator").exists(), "a file is drawn without a store"


def test_a_sweep_stands_below_the_nodes_of_its_trials(cli: Cli) -> None:
    graph = cli("graph", "search.yaml", "--json").document["graph"]
    assert sorted(graph["edges"]) == sorted(EDGES)
    assert [(node["name"], node["group"]) for node in graph["nodes"]][:3] == [
        ("base", ""), ("search.draw", "search"), ("search.score", "search"),
    ]  # fmt: skip
    assert "6 trials, random" in cli("graph", "search.yaml").out


def test_the_graph_of_a_run_says_the_state_of_each_node_first(cli: Cli) -> None:
    cli("submit", "failing.yaml", "--executor", "inline")
    lines = cli("graph", "@last").out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["DONE", "FAIL", "SKIP"]


def test_the_graph_of_a_search_counts_its_trials(cli: Cli, searched: str) -> None:
    assert "6 done" in next(line for line in cli("graph", searched).out.splitlines() if "search.score" in line)


@pytest.mark.parametrize(("suffix", "start"), [("svg", "<svg "), ("dot", "digraph "), ("mmd", "flowchart TD")])
def test_every_format_holds_every_node_and_edge(cli: Cli, searched: str, suffix: str, start: str) -> None:
    answer = cli("graph", searched, "--out", f"g.{suffix}")
    assert answer.code == 0
    assert answer.out == ""
    text = Path(f"g.{suffix}").read_text()
    assert text.startswith(start)
    for name in ("base", "search.draw", "search.score", "after", "DONE"):
        assert name in text
    number = {"svg": text.count("marker-end"), "dot": text.count(" -> "), "mmd": text.count(" --> ")}[suffix]
    assert number == len(EDGES)
    form = {"mmd": "mermaid"}.get(suffix, suffix)
    assert cli("graph", searched, "--format", form).out == text


def test_the_picture_is_whole_xml_whose_boxes_lie_inside_it(cli: Cli) -> None:
    root = ET.fromstring(cli("graph", "search.yaml", "--format", "svg").out)
    space = "{http://www.w3.org/2000/svg}"
    boxes = [each.find(f"{space}rect") for each in root.iter(f"{space}g")]
    assert len(boxes) == 5
    for box in boxes:
        assert box is not None
        assert 0 <= float(box.attrib["x"]) <= float(root.attrib["width"]) - float(box.attrib["width"])
        assert 0 <= float(box.attrib["y"]) <= float(root.attrib["height"]) - float(box.attrib["height"])


def test_values_of_the_file_cannot_break_out_of_a_format(cli: Cli) -> None:
    Path("odd.yaml").write_text(
        "version: 1\nname: odd\nnodes:\n  one: {stage: probe.echo, foreach: {value: ['\"]; x', '</svg><script>', 'a\\b']}}\n"
    )
    ET.fromstring(cli("graph", "odd.yaml", "--format", "svg").out)
    assert "<script>" not in cli("graph", "odd.yaml", "--format", "mermaid").out
    assert '\\"]; x' in cli("graph", "odd.yaml", "--format", "dot").out


def test_a_format_that_cannot_be_told_is_asked_for(cli: Cli) -> None:
    answer = cli("graph", "chain.yaml", "--out", "picture.pdf")
    assert answer.code == 2
    assert "orchestrator graph chain.yaml --out picture.svg" in answer.err
    assert cli("graph", "zzzz").code == 2


def test_the_graph_of_a_plan_says_what_will_be_done_with_each_node(cli: Cli, searched: str) -> None:
    words = [line.split()[0] for line in cli("plan", "search.yaml", "--graph").out.splitlines()[1:]]
    assert words == ["HIT"] * 5
    changed = cli("plan", "search.yaml", "--graph", "--set", "base.value=0.7").out.splitlines()
    assert [line.split()[0] for line in changed if not line.startswith(" ")] == ["searching", "RUN", "SEARCH", "LATER"]
    boxes = cli("plan", "search.yaml", "--graph", "--json").document["graph"]["nodes"]
    assert {box["state"] for box in boxes} == {"hit"}

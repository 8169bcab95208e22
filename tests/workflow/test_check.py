"""A workflow against the catalog: order, references, kinds, and the place of each problem."""

from __future__ import annotations

import graphlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_stages import TOYS, checked, problem, problems

from orchestrator.errors import Problem
from orchestrator.report.problems import format_problem
from orchestrator.workflow.order import order_of
from orchestrator.workflow.places import nearest

pytestmark = pytest.mark.usefixtures("toys")


class TestOrder:
    def test_nodes_come_after_what_they_refer_to_and_else_in_file_order(self):
        nodes = (
            "  show: {stage: toy.show, inputs: {what: export}}\n"
            "  other: {stage: toy.make}\n"
            "  export: {stage: toy.export, inputs: {model: make}}\n"
            "  make: {stage: toy.make, needs: [first]}\n"
            "  last: {stage: toy.make, when: {metric: show.top1, min: 0}}\n"
            "  first: {stage: toy.make}\n"
        )
        assert checked(nodes).order == ("other", "first", "make", "export", "show", "last")

    def test_specs_are_those_of_the_catalog(self):
        assert checked("  a: {stage: toy.make}\n").specs == {"a": TOYS["toy.make"]}

    @settings(max_examples=300, deadline=None)
    @given(st.dictionaries(st.integers(0, 12), st.sets(st.integers(0, 12), max_size=4), max_size=13))
    def test_an_order_exists_or_a_cycle_is_named(self, graph):
        targets = {str(node): {str(other) for other in others if other in graph} for node, others in graph.items()}
        order, cycles = order_of(targets)
        try:
            tuple(graphlib.TopologicalSorter(targets).static_order())
            assert not cycles
            assert sorted(order) == sorted(targets)
        except graphlib.CycleError:
            assert cycles
        for index, name in enumerate(order):
            assert targets[name] <= set(order[:index])
        for cycle in cycles:
            assert len(set(cycle)) == len(cycle)
            for name, target in zip(cycle, (*cycle[1:], cycle[0]), strict=True):
                assert target in targets[name]

    def test_a_chain_of_tens_of_thousands_is_ordered_without_recursion(self):
        targets = {str(index): [str(index + 1)] if index < 50_000 else [] for index in range(50_001)}
        order, cycles = order_of(targets)
        assert (order[0], order[-1], cycles) == ("50000", "0", [])
        targets["50000"] = ["0"]
        assert len(order_of(targets)[1][0]) == 50_001

    def test_a_cycle_is_placed_at_the_reference_that_is_part_of_it(self):
        found = problem(
            "  a: {stage: toy.make}\n"
            "  b:\n"
            "    stage: toy.teach\n"
            "    inputs:\n"
            "      model: a\n"
            "      teacher: c\n"  # 9
            "  c: {stage: toy.change, inputs: {model: b}}\n"
        )
        assert (found.line, found.found) == (9, "b -> c -> b")

    def test_nodes_below_a_cycle_are_not_blamed(self):
        nodes = "  a: {stage: toy.make, needs: [b]}\n  b: {stage: toy.make, needs: [a]}\n  c: {stage: toy.make, needs: [b]}\n"
        assert "c" not in problem(nodes).found


class TestReferences:
    MAKE = "  make: {stage: toy.make}\n"

    def test_node_and_node_output_mean_the_same(self):
        nodes = self.MAKE + (
            "  b: {stage: toy.change, inputs: {model: make.output}}\n"
            "  c: {stage: toy.compare, inputs: {models: [b.output, make]}}\n"
            "  d: {stage: toy.change, foreach: {model: [make, b.output]}}\n"
            "  e: {stage: toy.make, foreach: {name: [a.output, b]}}\n"
        )
        found = checked(nodes).loaded.workflow.nodes
        assert found["b"].inputs == {"model": "make"}
        assert found["c"].inputs == {"models": ("b", "make")}
        assert found["d"].foreach == {"model": ("make", "b")}
        assert found["e"].foreach == {"name": ("a.output", "b")}

    @pytest.mark.parametrize("reference", ["make.weights", "make.output.x", "make.best.make", "make."])
    def test_other_outputs_are_refused(self, reference):
        found = problem(self.MAKE + f"  b: {{stage: toy.change, inputs: {{model: {reference}}}}}\n")
        assert (found.line, found.suggestion) == (5, "write model: make")

    @pytest.mark.parametrize("reference", ["", ".", ".output", "mkae", "Make", "make output"])
    def test_unknown_nodes_are_refused(self, reference):
        assert "no such node" in problem(self.MAKE + f"  b: {{stage: toy.change, inputs: {{model: '{reference}'}}}}\n").what

    def test_a_port_that_takes_many_takes_one_too(self):
        checked(self.MAKE + "  b: {stage: toy.compare, inputs: {models: make}}\n")

    def test_an_empty_list_on_a_required_port_is_a_missing_input(self):
        assert "is missing" in problem(self.MAKE + "  b: {stage: toy.compare, inputs: {models: []}}\n").what
        checked(self.MAKE + "  b: {stage: toy.compare, inputs: {models: make, extra: []}}\n")

    def test_a_port_of_any_kind_takes_everything(self):
        checked(self.MAKE + "  e: {stage: toy.export, inputs: {model: make}}\n  s: {stage: toy.show, inputs: {what: e}}\n")

    def test_each_member_of_a_list_must_have_the_kind(self):
        nodes = (
            self.MAKE
            + "  e: {stage: toy.export, inputs: {model: make}}\n  c:\n    stage: toy.compare\n    inputs:\n      models:\n"
        )
        found = problem(nodes + "        - make\n        - e\n")
        assert found.line == 11
        assert "e (toy.export) makes onnx" in found.found
        assert "make" in found.suggestion

    def test_each_alternative_of_foreach_must_have_the_kind(self):
        nodes = (
            self.MAKE
            + "  e: {stage: toy.export, inputs: {model: make}}\n  c:\n    stage: toy.change\n    foreach: {model: [make, e]}\n"
        )
        assert problem(nodes).line == 8

    def test_a_missing_port_names_the_nodes_that_fit(self):
        nodes = self.MAKE + "  e: {stage: toy.export, inputs: {model: make}}\n  c: {stage: toy.change}\n"
        assert problem(nodes).suggestion == "write inputs: {model: make}"

    def test_a_port_is_not_missing_where_foreach_lists_it(self):
        checked(self.MAKE + "  b: {stage: toy.change, foreach: {model: [make]}}\n")

    def test_a_port_under_inputs_and_foreach_is_refused(self):
        nodes = self.MAKE + "  b: {stage: toy.change, inputs: {model: make}, foreach: {model: [make]}}\n"
        assert "both inputs and foreach" in problem(nodes).what

    def test_foreach_over_a_port_lists_references(self):
        found = problems(
            self.MAKE
            + "  b:\n    stage: toy.change\n    foreach:\n      model:\n        - make\n        - 3\n        - [make]\n"
        )
        assert [one.line for one in found] == [10, 11]
        assert all("is not a reference" in one.what for one in found)

    def test_an_unknown_stage_does_not_hide_or_cause_other_problems(self):
        found = problems(
            "  a: {stage: toy.maek}\n  b: {stage: toy.change, inputs: {model: a}}\n  c: {stage: toy.mke, inputs: {x: nobody}}\n"
        )
        assert [one.line for one in found] == [4, 6, 6]

    def test_references_into_a_sweep_that_could_not_be_read_are_left_alone(self):
        nodes = (
            "  s: {sweep: {space: {}, objectives: {}, trials: 1}, nodes: {}}\n"
            "  b: {stage: toy.teach, inputs: {model: s.best.x}, needs: [s], when: {metric: s.best.y.top1, min: 0}}\n"
        )
        assert problem(nodes).line == 4

    def test_references_to_a_node_that_could_not_be_read_are_left_alone(self):
        assert "stage" in problem("  a: {params: {}}\n  b: {stage: toy.change, inputs: {model: a}}\n").what


def test_problems_of_loading_and_checking_come_together_in_the_order_of_the_file():
    found = problems(
        "  a: {stage: toy.make, params: {low: x}}\n"
        "  a: {stage: toy.make}\n"
        "  b: {stage: toy.change, timeout: 5}\n"
        "  c: {stage: toy.chnge, inputs: {model: a}}\n",
        overrides=["c.seed=x"],
    )
    assert [(one.file, one.line) for one in found] == [
        ("x.yaml", 4),
        ("x.yaml", 5),
        ("x.yaml", 6),
        ("x.yaml", 7),
        ("--set c.seed=x", 0),
    ]


def test_the_nearest_name_is_the_one_a_person_means():
    assert nearest("n_of_m", ["n_m", "removal_start", "epochs"]) == ["n_m"]
    assert nearest("lbc", ["sparsify.lbc", "finetune.distill"]) == ["sparsify.lbc"]
    assert nearest("LR", ["lr"]) == ["lr"]
    assert nearest("zzz", ["lr"]) == []
    assert nearest("", ["lr"]) == []


class TestPrintedProblem:
    def test_it_has_the_form_that_the_documentation_shows(self):
        printed = format_problem(
            Problem(
                file="workflows/x.yaml",
                line=41,
                column=9,
                what='node "sparsify": unknown parameter "n_of_m"',
                found='"n_of_m: 2:4"',
                expected="stage sparsify.lbc takes n_m, removal_start",
                suggestion="did you mean n_m?",
                next_step="orchestrator stages show sparsify.lbc",
                note='YAML reads 2:4 as a number in some parsers; write n_m: "2:4"',
            )
        )
        assert printed == (
            'error: workflows/x.yaml:41:9: node "sparsify": unknown parameter "n_of_m"\n'
            '   found "n_of_m: 2:4"; stage sparsify.lbc takes n_m, removal_start\n'
            "   did you mean n_m?    next: orchestrator stages show sparsify.lbc\n"
            'note: YAML reads 2:4 as a number in some parsers; write n_m: "2:4"'
        )

    def test_a_fact_alone_is_one_line(self):
        assert format_problem(Problem(file="x.yaml", line=0, column=0, what="it is wrong")) == "error: x.yaml: it is wrong"

    def test_control_characters_of_a_file_do_not_reach_the_terminal(self):
        printed = format_problem(Problem(file="a\x1b[2J.yaml", line=1, column=1, what="x\n\x07y", found="\u202ez"))
        assert printed == "error: a\\x1b[2J.yaml:1:1: x\\n\\x07y\n   found \\u202ez"

"""Parameters, lists of values, conditions and resources against what stages take."""

from __future__ import annotations

import time

import pytest
from toy_stages import ToySettings, checked, problem, problems

from orchestrator.errors import Problem
from orchestrator.report.problems import format_problem, format_problems
from orchestrator.workflow.validate import legal_names
from stages import catalog
from stages.contract import StageSpec

pytestmark = pytest.mark.usefixtures("toys")


class TestParameters:
    def at(self, params: str) -> tuple[Problem, ...]:
        indented = "".join(f"      {line}\n" for line in params.splitlines())
        return problems(f"  a:\n    stage: toy.make\n    params:\n{indented}")  # the first parameter is on line 7

    @pytest.mark.parametrize(
        ("params", "line", "words"),
        [
            ("name: 3", 7, "text"),
            ("part:\n  size: 0", 8, "at least 1"),
            ("part:\n  sise: 3", 8, "did you mean size?"),
            ("part: 3", 7, "a mapping"),
            ("parts:\n  - {size: 1}\n  - {size: 1, sise: 2}", 9, "did you mean size?"),
            ("parts:\n  - {size: 1}\n  - size: x", 9, "a whole number"),
            ("parts: {size: 1}", 7, "a list"),
            ("by_name:\n  x: {size: 1}\n  y:\n    size: 1.5", 10, "a whole number"),
            ("by_name:\n  x: {sice: 1}", 8, "did you mean size?"),
            ("either: 1.5", 7, "a whole number or text"),
            ("choice:\n  kind: hole", 8, "did you mean whole?"),
            ("choice:\n  weight: 1.5", 7, '"choice.kind" is missing'),
            ("choice: whole", 7, "a mapping"),
            ("choice:\n  kind: whole\n  size: 3", 9, "weight"),
            ("choice:\n  kind: whole\n  weight: x", 9, "a number"),
            ("low: 2", 6, "low is 2 and high 1"),
            ("low: .inf", 7, "a finite number"),
            ("low: true", 7, "a number"),
            ("name:", 7, "text"),
            ("nmae: x", 7, "did you mean name?"),
        ],
    )
    def test_a_problem_stands_on_the_line_of_its_value(self, params, line, words):
        (found,) = self.at(params)
        assert found.line == line
        assert words in format_problem(found)
        assert found.next_step == "orchestrator stages show toy.make"

    def test_all_problems_of_a_node_are_told_at_once(self):
        assert [one.line for one in self.at("name: 3\nlow: x\npart: {size: 0}\nextra: 1")] == [7, 8, 9, 10]

    def test_a_whole_number_may_stand_for_a_fraction_and_a_list_for_a_tuple(self):
        checked("  a: {stage: toy.make, params: {low: 0, high: 2, parts: [{size: 2}], free: {any: [thing, 1, null]}}}\n")

    def test_no_params_are_fine_where_all_have_defaults(self):
        checked("  a: {stage: toy.make}\n  b: {stage: toy.make, params: {}}\n")

    def test_an_override_is_blamed_by_its_text(self):
        found = problem("  a: {stage: toy.make, params: {part: {size: 3}}}\n", overrides=["a.part.size=0"])
        assert found.place() == "--set a.part.size=0"
        assert problem("  a: {stage: toy.make}\n", overrides=["a.nmae=x"]).suggestion == "did you mean name?"

    def test_an_override_inside_a_broken_mapping_leaves_the_rest_to_the_file(self):
        found = problems("  a: {stage: toy.make, params: {part: {sise: 3}}}\n", overrides=["a.part.size=0"])
        assert [one.place() for one in found] == ["x.yaml:4:40", "--set a.part.size=0"]

    def test_legal_names_are_found_through_every_kind_of_annotation(self):
        assert legal_names(ToySettings, ("part",)) == ["size", "kind"]
        assert legal_names(ToySettings, ("parts", 1)) == ["size", "kind"]
        assert legal_names(ToySettings, ("by_name", "x")) == ["size", "kind"]
        assert set(legal_names(ToySettings, ("choice",))) == {"size", "kind", "weight"}
        assert legal_names(ToySettings, ("free", "x")) == []
        assert legal_names(ToySettings, ("nothing",)) == []


class TestForeach:
    def test_parameters_nested_parameters_and_inputs_can_be_listed(self):
        checked(
            "  m: {stage: toy.make, foreach: {part.size: [1, 2], name: [a, b]}}\n"
            "  c: {stage: toy.change, foreach: {model: [m]}}\n"
        )

    def test_a_nested_list_adds_to_the_parameters_given(self):
        checked("  m: {stage: toy.make, params: {part: {kind: part}}, foreach: {part.size: [1, 2]}}\n")
        checked("  m: {stage: toy.make, foreach: {free.any: [1, [2], {three: 3}, null]}}\n")

    def test_each_listed_value_is_checked_on_its_own_line(self):
        found = problems(
            "  m:\n    stage: toy.make\n    foreach:\n      part.size:\n        - 1\n        - 0\n        - x\n        - 2\n"
        )
        assert [one.line for one in found] == [9, 10]

    @pytest.mark.parametrize(
        ("rest", "words"),
        [
            ("params: {part: {size: 1}}, foreach: {part.size: [2]}", "given twice"),
            ("params: {part: 3}, foreach: {part.size: [2]}", "given twice"),
            ("params: {name: x}, foreach: {name: [y]}", "given twice"),
            ("foreach: {part.sise: [2]}", "did you mean part.size?"),
            ("foreach: {prat.size: [2]}", "neither a parameter nor an input"),
            ("foreach: {name.x: [2]}", "neither a parameter nor an input"),
            ("foreach: {nmae: [x, y]}", "did you mean name?"),
            ("foreach: {timeout: [5s]}", "stands beside params"),
            ("foreach: {name: []}", "lists nothing"),
            ("foreach: {low: [0, 0.0]}", "twice"),
            ("foreach: {free: [{a: 1, b: 2}, {b: 2, a: 1}]}", "twice"),
            ("foreach: {low: [0.5, 2]}", "low is 2 and high 1"),
        ],
    )
    def test_a_list_that_cannot_be_meant_is_refused(self, rest, words):
        found = problems(f"  m: {{stage: toy.make, {rest}}}\n")
        assert words in format_problems(found)
        assert {one.line for one in found} == {4}

    def test_true_and_one_are_two_values(self):
        checked("  m: {stage: toy.make, foreach: {free: [{a: 1}, {a: true}], either: [1, '1', null]}}\n")

    def test_combinations_are_checked_together(self):
        found = problem("  m: {stage: toy.make, foreach: {low: [0, 5], high: [1, 6, 7]}}\n")
        assert "low is 5 and high 1" in found.what

    def test_thousands_of_values_are_checked_in_milliseconds(self):
        values = ", ".join(str(index / 10_000) for index in range(3000))
        start = time.process_time()
        checked(f"  m: {{stage: toy.make, foreach: {{low: [{values}]}}}}\n")
        assert time.process_time() - start < 1

    def test_a_misfit_among_thousands_is_found(self):
        values = ", ".join(str(index) for index in range(3000))
        assert problems(f"  m: {{stage: toy.make, foreach: {{part.size: [{values}]}}}}\n")[0].found == '"0"'


class TestWhenAndResources:
    MAKE = "  make: {stage: toy.make}\n"

    @pytest.mark.parametrize(
        ("when", "words"),
        [
            ("{metric: make.top1, min: 1, max: 0}", "min is above max"),
            ("{metric: make.top1}", "no bound"),
            ("{metric: make, min: 1}", "node and a metric"),
            ("{metric: .top1, min: 1}", "node and a metric"),
            ("{metric: make.top5, min: 1}", "did you mean top1?"),
            ("{metric: maek.top1, min: 1}", "did you mean make?"),
            ("{metric: b.top1, min: 1}", "refers to itself"),
            ("{min: 1}", '"when.metric" is missing'),
            ("{metric: make.top1, mim: 1}", "did you mean min?"),
            ("{metric: make.top1, min: .nan}", "a finite number"),
            ("make.top1", "a mapping"),
        ],
    )
    def test_a_condition_that_cannot_be_meant_is_refused(self, when, words):
        found = problems(self.MAKE + f"  b:\n    stage: toy.make\n    when: {when}\n")
        assert words in format_problem(found[0]), format_problems(found)
        assert found[0].line == 7

    def test_metrics_are_free_where_the_stage_declares_none(self, monkeypatch):
        silent = StageSpec(name="toy.make", version=1, summary="", settings=ToySettings, implementation="x:y", output="model")
        monkeypatch.setattr(catalog, "find_stage", {"toy.make": silent}.get)
        checked(self.MAKE + "  b: {stage: toy.make, when: {metric: make.anything, max: 1}}\n")

    @pytest.mark.parametrize(
        "resources", ["{cpus: 0.5}", "{cpus: 4, gpus: 0.25}", "{gpus: 2, custom: {tpu: 0.5}}", "{cpus: 1.0, memory: 1GiB}"]
    )
    def test_fractions_below_one_and_whole_numbers_are_resources(self, resources):
        checked(f"  a: {{stage: toy.make, resources: {resources}}}\n")

    @pytest.mark.parametrize(
        "resources", ["{cpus: 1.5}", "{gpus: 2.5}", "{custom: {tpu: 0}}", "{custom: {GPU: 1}}", "{custom: {'': 1}}"]
    )
    def test_odd_amounts_are_refused(self, resources):
        assert problem(f"  a: {{stage: toy.make, resources: {resources}}}\n").line == 4

    @pytest.mark.parametrize("name", ["a b", "1st", "a.b", "ä", "x" * 65, "-a", ""])
    def test_names_that_cannot_be_labels_are_refused(self, name):
        found = problem(f"  '{name}': {{stage: toy.make}}\n")
        assert "cannot be the name of a node" in found.what
        assert found.suggestion

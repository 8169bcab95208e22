"""A workflow against the catalog: order, references, kinds, parameters, and the place of each problem."""

from __future__ import annotations

import graphlib
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, model_validator

from orchestrator.errors import Problem, WorkflowError
from orchestrator.report.problems import format_problem, format_problems
from orchestrator.workflow.check import check_workflow
from orchestrator.workflow.load import load_text
from orchestrator.workflow.order import order_of
from orchestrator.workflow.places import nearest
from orchestrator.workflow.validate import legal_names
from stages import catalog
from stages.contract import Port, StageSettings, StageSpec

HEAD = "version: 1\nname: demo\nnodes:\n"


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int = Field(3, ge=1)
    kind: Literal["part"] = "part"


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["whole"] = "whole"
    weight: float = 1.0


class ToySettings(StageSettings):
    name: str = "toy"
    low: float = 0.0
    high: float = 1.0
    part: Part = Part()
    parts: tuple[Part, ...] = ()
    by_name: Mapping[str, Part] = Field(default_factory=dict)
    either: int | str | None = None
    choice: Annotated[Part | Whole, Field(discriminator="kind")] = Part()
    free: Mapping[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low:g} and high {self.high:g}; expected low < high")
        return self


def toy(name: str, *, output: str = "model", **ports: Port) -> StageSpec:
    return StageSpec(
        name=name,
        version=1,
        summary="",
        settings=ToySettings,
        implementation="x:y",
        output=output,
        inputs=ports,
        metrics=("top1",),
    )


TOYS = {
    spec.name: spec
    for spec in (
        toy("toy.make"),
        toy("toy.change", model=Port(kind="model")),
        toy("toy.teach", model=Port(kind="model"), teacher=Port(kind="model", optional=True)),
        toy("toy.export", output="onnx", model=Port(kind="model")),
        toy(
            "toy.compare",
            output="table",
            models=Port(kind="model", many=True),
            extra=Port(kind="any", many=True, optional=True),
        ),
        toy("toy.show", output="page", what=Port(kind="any")),
    )
}


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    """Stages made for these tests, so that the real ones may change."""
    monkeypatch.setattr(catalog, "find_stage", TOYS.get)
    monkeypatch.setattr(catalog, "all_stages", lambda: dict(TOYS))


def checked(nodes: str, *, overrides=()):
    try:
        return check_workflow(load_text(HEAD + nodes, file="x.yaml", overrides=overrides))
    except WorkflowError as error:
        pytest.fail(format_problems(error.problems))


def problems(nodes: str, *, overrides=(), head: str = HEAD) -> tuple[Problem, ...]:
    with pytest.raises(WorkflowError) as raised:
        check_workflow(load_text(head + nodes, file="x.yaml", overrides=overrides))
    return raised.value.problems


def problem(nodes: str, *, overrides=()) -> Problem:
    found = problems(nodes, overrides=overrides)
    assert len(found) == 1, format_problems(found)
    return found[0]


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

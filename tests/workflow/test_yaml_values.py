"""Values and refusals of YAML 1.2, by both parsers of the library."""

from __future__ import annotations

import math

import pytest
from workflow_texts import HEAD, problems_in

from orchestrator.errors import WorkflowError
from orchestrator.report.problems import format_problems
from orchestrator.workflow.load import load_text
from orchestrator.workflow.yaml12 import YamlReader


def value_of(text: str):
    reader = YamlReader(text.encode(), file="x.yaml")
    value = reader.read()
    assert not reader.findings.problems, format_problems(reader.findings.problems)
    return value


@pytest.mark.usefixtures("parser")
class TestValues:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("2:4", "2:4"),
            ("1:30", "1:30"),
            ("190:20:30", "190:20:30"),
            ("on", "on"),
            ("off", "off"),
            ("yes", "yes"),
            ("No", "No"),
            ("y", "y"),
            ("2020-01-01", "2020-01-01"),
            ("2001-12-14t21:59:43.10-05:00", "2001-12-14t21:59:43.10-05:00"),
            ("1_000", "1_000"),
            ("0b11", "0b11"),
            ("=", "="),
            ("0o17", 15),
            ("0x1F", 31),
            ("012", 12),
            ("+7", 7),
            ("-0", 0),
            ("1e-4", 1e-4),
            ("1E5", 1e5),
            (".5", 0.5),
            ("5.", 5.0),
            ("-3.25", -3.25),
            (".inf", math.inf),
            ("-.INF", -math.inf),
            ("inf", "inf"),
            ("nan", "nan"),
            ("NaN", "NaN"),
            (".", "."),
            ("-", [None]),
            ("+", "+"),
            ("1.2.3", "1.2.3"),
            ("0x", "0x"),
            ("-0x1F", "-0x1F"),
            ("1e", "1e"),
            ("~", None),
            ("null", None),
            ("Null", None),
            ("NULL", None),
            ("nUll", "nUll"),
            ("true", True),
            ("True", True),
            ("FALSE", False),
            ("tRue", "tRue"),
            ('"1"', "1"),
            ("'true'", "true"),
            ("!!str 1", "1"),
            ("!!float 1", 1.0),
            ("!!int 3", 3),
            ("!!null ~", None),
            ("! 5", "5"),
            ("9223372036854775807", 2**63 - 1),
            ("|\n  a\n  b\n", "a\nb\n"),
            (">-\n  a\n  b\n", "a b"),
            ("[1, two, {three: 3.0}]", [1, "two", {"three": 3.0}]),
            ("{}", {}),
            ("{a: 1, 'b c': [], yes: no, 2:4: x}", {"a": 1, "b c": [], "yes": "no", "2:4": "x"}),
        ],
    )
    def test_scalars_follow_the_core_schema_of_yaml_1_2(self, text, value):
        found = value_of(text)
        assert found == value
        assert type(found) is type(value)

    def test_nan_is_a_float(self):
        assert math.isnan(value_of(".nan"))

    def test_zero_keeps_its_sign(self):
        assert math.copysign(1, value_of("-0.0")) == -1

    def test_aliases_stand_for_their_value(self):
        assert value_of("a: &x {k: [1, 2]}\nb: *x\nc: [*x, *x]") == {
            "a": {"k": [1, 2]},
            "b": {"k": [1, 2]},
            "c": [{"k": [1, 2]}] * 2,
        }

    def test_an_anchor_may_be_given_again(self):
        assert value_of("[&x 1, *x, &x 2, *x]") == [1, 1, 2, 2]

    def test_a_byte_order_mark_and_windows_line_ends_are_fine(self):
        text = b"\xef\xbb\xbf" + (HEAD + "  a: {stage: probe.echo}\n").replace("\n", "\r\n").encode()
        assert load_text(text, file="x").workflow.name == "demo"

    def test_a_yaml_directive_does_not_change_the_rules(self):
        assert value_of("%YAML 1.1\n---\n[on, 2:4, 012]") == ["on", "2:4", 12]

    def test_fifty_levels_are_enough_and_the_limit(self):
        assert value_of("[" * 50 + "]" * 50)
        with pytest.raises(WorkflowError):
            value_of("[" * 51 + "]" * 51)


def test_tabs_may_separate_values_where_libyaml_reads():
    assert value_of("a:\t1\nb: [1,\t2]") == {"a": 1, "b": [1, 2]}


@pytest.mark.usefixtures("parser")
class TestRefusals:
    def test_a_tab_in_the_indentation_is_named_with_its_line(self):
        (problem,) = problems_in(HEAD + "  a:\n\tstage: probe.echo\n")
        assert problem.line == 5
        assert "tab" in problem.what

    def test_each_duplicate_is_told_with_both_lines_and_the_first_stays(self):
        text = HEAD + "  a: {stage: probe.echo, stage: probe.fail}\n  b:\n    stage: probe.echo\n  b:\n    stage: probe.fail\n"
        loaded = load_text(text, file="x")
        assert [(problem.line, problem.found) for problem in loaded.problems] == [
            (4, '"stage" on line 4 and on line 4'),
            (7, '"b" on line 5 and on line 7'),
        ]
        assert {node.stage for node in loaded.workflow.nodes.values()} == {"probe.echo"}

    @pytest.mark.parametrize("key", ["1", "1.5", "true", "~", "[a]", "{a: b}", "? {a: {b: [c]}}\n  "])
    def test_keys_that_are_not_text_are_refused(self, key):
        (problem,) = problems_in(HEAD + f"  {key}: {{stage: probe.echo}}\n  b: {{stage: probe.echo}}\n")
        assert problem.what == "a key is not text"
        assert problem.line == 4

    def test_problems_inside_a_refused_value_do_not_matter(self):
        (problem,) = problems_in(HEAD + "  1: {2: 3, a: 1, a: 2}\n  b: {stage: probe.echo}\n")
        assert problem.column == 3

    @pytest.mark.parametrize(
        "tag", ["!!binary aGk=", "!!set {a}", "!!timestamp 2020-01-01", "!!omap [a: 1]", "!x {a: 1}", "!!int one"]
    )
    def test_tags_are_refused(self, tag):
        problems = problems_in(HEAD + f"  a: {{stage: probe.echo, params: {{value: {tag}}}}}\n")
        assert "tag" in problems[0].what
        assert problems[0].line == 4

    @pytest.mark.parametrize(
        "number", ["9" * 30, "9" * 5000, "-9223372036854775809", "0x" + "f" * 16, "0x" + "f" * 5000, "1e999", "-1e999"]
    )
    def test_numbers_beyond_64_bits_are_refused(self, number):
        (problem,) = problems_in(HEAD + f"  a: {{stage: probe.echo, params: {{value: {number}}}}}\n")
        assert problem.what == "the number is too large"

    def test_a_file_of_two_documents_is_refused(self):
        (problem,) = problems_in(HEAD + "  a: {stage: probe.echo}\n--- \nb: 1\n")
        assert (problem.line, problem.what) == (5, "a second document starts here")

    def test_a_merge_key_does_not_make_its_node_lack_keys(self):
        (problem,) = problems_in(HEAD + "  a: &base {stage: probe.echo}\n  b:\n    <<: *base\n")
        assert problem.line == 6

    def test_a_bomb_of_aliases_is_stopped_before_it_unfolds(self):
        lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60)]
        (problem,) = problems_in("\n".join(lines))
        assert "too many values" in problem.what

    def test_an_alias_of_its_own_mapping_is_told(self):
        (problem,) = problems_in(HEAD + "  a: &a {stage: probe.echo, params: {value: *a}}\n")
        assert "inside its own anchor" in problem.what

    def test_the_byte_that_is_no_text_is_named(self):
        data = HEAD.encode() + b"  a: {stage: caf\xe9}\n"
        (problem,) = problems_in(data)
        assert problem.found == f"byte 0xe9 at byte offset {data.index(0xE9)}"
        assert problem.line == 4

    def test_half_a_surrogate_pair_is_refused_as_text_and_as_escape(self):
        (problem,) = problems_in("a: \ud800")
        assert "surrogate" in problem.what
        assert problems_in('version: 1\nname: "\\ud800"\nnodes: {}\n')

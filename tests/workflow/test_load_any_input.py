"""No input ends in a traceback, and parameters come out as they were written."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from workflow_texts import HEAD

from orchestrator.errors import WorkflowError
from orchestrator.report.problems import format_problem
from orchestrator.workflow.check import check_workflow
from orchestrator.workflow.load import load_text

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
NAMES = st.sampled_from(
    ["version", "name", "seed", "nodes", "stage", "params", "inputs", "foreach", "needs", "when", "resources", "cpus", "memory",
     "retry", "timeout", "metric", "sweep", "space", "objectives", "trials", "choice", "constraints",
     "a", "b", "value", "seconds", "size"]
)  # fmt: skip
WORDS = NAMES | st.sampled_from(
    ["probe.echo", "probe.sleep", "sparsify.lbc", "a", "b", "5s", "a.b", "2:4", "1", 1, -1, 0.5, None, True]
)
TREES = st.recursive(
    SCALARS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)
LISTED = st.sampled_from(["value", "seconds", "input", "value.x"])
NODES = st.fixed_dictionaries(
    {"stage": st.sampled_from(["probe.echo", "probe.sleep", "probe.bytes", "probe.fail"]) | TREES},
    optional={
        "params": st.dictionaries(st.sampled_from(["value", "seconds", "size", "mode", "x"]), TREES, max_size=3) | TREES,
        "inputs": st.dictionaries(st.sampled_from(["inputs", "input", "x"]), WORDS | st.lists(WORDS, max_size=3), max_size=2)
        | TREES,
        "foreach": st.dictionaries(LISTED, st.lists(TREES, max_size=3), max_size=2) | TREES,
        "needs": st.lists(WORDS, max_size=2) | TREES,
        "when": st.fixed_dictionaries({"metric": WORDS}, optional={"min": TREES, "max": TREES}) | TREES,
        "resources": st.dictionaries(st.sampled_from(["cpus", "gpus", "memory", "custom"]), TREES, max_size=2) | TREES,
        "retry": TREES,
        "timeout": TREES,
        "seed": TREES,
        "sweep": TREES,
    },
)
DISTRIBUTIONS = st.fixed_dictionaries(
    {},
    optional={
        "choice": st.lists(SCALARS, max_size=3) | TREES,
        "uniform": st.lists(st.floats(), min_size=2, max_size=2) | TREES,
        "int": st.lists(st.integers(-(10**12), 10**12), min_size=2, max_size=2) | TREES,
        "loguniform": st.lists(st.floats(), max_size=3),
        "step": st.floats() | TREES,
        "when": st.dictionaries(st.sampled_from(["a.value", "a.seconds", "b.value"]), st.lists(SCALARS, max_size=2)) | TREES,
    },
)
METRICS = st.sampled_from(["a.value", "b.value", "c.value", "s.best.a.value", "a", "", "."])
SWEEPS = st.fixed_dictionaries(
    {
        "sweep": st.fixed_dictionaries(
            {
                "space": st.dictionaries(st.sampled_from(["a.value", "a.seconds", "b.value", "a.value.x", "c"]), DISTRIBUTIONS)
                | TREES,
                "objectives": st.dictionaries(METRICS, st.sampled_from(["maximize", "minimize"])) | TREES,
            },
            optional={
                "trials": st.integers() | TREES,
                "sampler": st.sampled_from(["grid", "tpe", "pbt"]) | TREES,
                "scheduler": st.fixed_dictionaries({"kind": st.just("asha")}, optional={"metric": METRICS}) | TREES,
                "constraints": st.lists(
                    st.fixed_dictionaries(
                        {"metric": METRICS}, optional={"min": SCALARS, "max_drop": SCALARS, "versus": METRICS}
                    )
                )
                | TREES,
                "select": st.fixed_dictionaries({}, optional={"rule": st.just("knee"), "metric": METRICS}) | TREES,
                "finalists": TREES,
            },
        )
        | TREES,
        "nodes": st.dictionaries(st.sampled_from("abs"), NODES) | TREES,
    },
    optional={"needs": TREES, "stage": TREES},
)
REFERENCES = st.sampled_from(["s", "s.best.a", "s.front.b", "s.best", "s.best.x", "a", "s.best.a.output"])
AROUND = st.fixed_dictionaries({"stage": st.just("probe.echo"), "inputs": st.fixed_dictionaries({"inputs": REFERENCES})})
WORKFLOWS = st.fixed_dictionaries(
    {
        "version": st.just(1) | TREES,
        "name": st.just("x") | TREES,
        "nodes": st.dictionaries(st.sampled_from("abc") | st.text(max_size=3), NODES)
        | st.fixed_dictionaries({"s": SWEEPS}, optional={"c": AROUND, "b": NODES, "d": SWEEPS})
        | TREES,
    },
    optional={"seed": TREES, "x": TREES},
)
PIECES = (
    *(
        "a",
        "b",
        "1",
        ".",
        "e5",
        "0x",
        "~",
        "é",
        "<<",
        ": ",
        ":",
        "- ",
        "? ",
        ", ",
        "[",
        "]",
        "{",
        "}",
        "&x ",
        "*x",
        "!t ",
        "!!int ",
    ),
    *("\n", "  ", "\t", "\r", "\u2028", "\x85", "\ufeff", "|", ">", "'", '"', "#", "\\", "@", "`"),
    *("%YAML 1.2\n", "---\n", "...\n", "version: 1\n", "nodes:\n", "name: x\n"),
)
YAML_PIECES = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
RELAXED = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


def read_and_check(text, **options):
    """The errors that a user may meet are the only ones, and each can be printed."""
    for problem in problems_of_all(text, **options):
        assert problem.what
        assert problem.next_step
        assert "\n" not in format_problem(problem).splitlines()[0]


def problems_of_all(text, **options):
    try:
        check_workflow(load_text(text, file="x.yaml", **options))
    except WorkflowError as error:
        return error.problems
    return ()


@pytest.mark.usefixtures("parser")
class TestNoInputEndsInATraceback:
    @RELAXED
    @given(st.text())
    @example("\ufeff")
    @example("%")
    @example("\x00")
    @example("&a *a")
    @example("? ")
    @example("- - - -")
    @example("!")
    @example("!<")
    @example("%TAG ! tag:x,2000:\n--- !a b")
    @example('"\\U00110000"')
    @example('"\\Uffffffff"')
    def test_random_text(self, text):
        read_and_check(text)

    @RELAXED
    @given(st.binary())
    def test_random_bytes(self, data):
        read_and_check(data)

    @RELAXED
    @given(YAML_PIECES)
    def test_pieces_of_yaml(self, text):
        read_and_check(text)
        read_and_check(HEAD + "  a:\n    stage: probe.echo\n    params:\n      value: " + text)

    @RELAXED
    @given(WORKFLOWS | TREES)
    def test_random_workflows(self, tree):
        read_and_check(json.dumps(tree, ensure_ascii=True).replace("\\u0000", "0"))

    @RELAXED
    @given(
        st.text(max_size=20)
        | st.tuples(st.sampled_from(["a", "a.value", "seed", "a.timeout", "a.resources.cpus", "b"]), st.text(max_size=10)).map(
            "=".join
        )
    )
    def test_random_overrides(self, text):
        read_and_check(HEAD + "  a: {stage: probe.echo}\n", overrides=[text])

    @RELAXED
    @given(
        st.lists(
            st.sampled_from(["s", "sweep", "nodes", "a", "space", "a.value", "trials", "choice", "carry", "sampler", "x"])
        ).map(".".join),
        st.sampled_from(["3", "[1]", "{choice: [1]}", "x", ""]),
    )
    def test_random_overrides_of_a_sweep(self, path, value):
        sweep = "{trials: 3, space: {a.value: {choice: [1]}}, objectives: {a.value: maximize}}"
        text = f"  s: {{sweep: {sweep}, nodes: {{a: {{stage: probe.echo}}}}}}\n"
        assert not problems_of_all(HEAD + text)
        read_and_check(HEAD + text, overrides=[f"{path}={value}"])


NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=80), inner, max_size=4),
    max_leaves=15,  # a key longer than 1024 characters, escapes included, has to be written in another way in YAML
)


@RELAXED
@given(VALUES)
def test_parameters_come_out_as_they_were_written(value):
    """A key hashes these values: a digit lost in reading would be a wrong hit."""
    text = HEAD + f"  a: {{stage: probe.echo, params: {json.dumps({'value': value})}}}\n"
    if "\\ud" in text or "\\u0000" in text or "\\u007f" in text:
        return  # surrogate pairs in escapes are JSON's way of writing, not YAML's
    found = load_text(text, file="x").workflow.nodes["a"].params["value"]
    assert json.dumps(found) == json.dumps(value)

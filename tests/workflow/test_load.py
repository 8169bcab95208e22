"""Reading a workflow file: the line of each value, units, `--set`, and how fast it is."""

from __future__ import annotations

import subprocess
import sys

import pytest
from workflow_texts import HEAD, problems_in

from orchestrator.report.problems import format_problem, format_problems
from orchestrator.workflow.load import load_text


class TestPlaces:
    TEXT = HEAD + (
        "  pretrain:\n"  # 4
        "    stage: pretrain.classifier\n"
        "    params: &shared\n"
        "      data:\n"
        "        name: synthetic\n"  # 8
        "        height: 16\n"
        "  echo:\n"  # 10
        "    stage: probe.echo\n"
        "    foreach:\n"
        "      value: [1,\n"
        "              2]\n"  # 14
        "    inputs:\n"
        "      inputs:\n"
        "        - first\n"
        "        - second\n"
        "  copy: {stage: pretrain.classifier, params: *shared}\n"  # 19
    )

    @pytest.mark.parametrize(
        ("path", "place"),
        [
            ((), (1, 1)),
            (("name",), (2, 1)),
            (("nodes", "pretrain", "params"), (6, 5)),
            (("nodes", "pretrain", "params", "data", "height"), (9, 9)),
            (("nodes", "pretrain", "params", "data", "width"), (7, 7)),
            (("nodes", "pretrain", "timeout"), (4, 3)),
            (("nodes", "echo", "foreach", "value"), (13, 7)),
            (("nodes", "echo", "foreach", "value", 1), (14, 15)),
            (("nodes", "echo", "inputs", "inputs", 1), (18, 11)),
            (("nodes", "nobody", "params"), (3, 1)),
            (("nodes", "copy", "params"), (19, 38)),
            (("nodes", "copy", "params", "data", "height"), (9, 9)),
            (("nowhere",), (1, 1)),
        ],
    )
    def test_each_value_has_its_line_or_that_of_the_nearest_parent(self, path, place):
        assert load_text(self.TEXT, file="x").lines[path] == place

    def test_the_workflow_is_data_as_written(self):
        workflow = load_text(self.TEXT, file="x").workflow
        assert (
            workflow.nodes["copy"].params == workflow.nodes["pretrain"].params == {"data": {"name": "synthetic", "height": 16}}
        )
        assert workflow.nodes["echo"].foreach == {"value": (1, 2)}
        assert workflow.nodes["echo"].inputs == {"inputs": ("first", "second")}


class TestSpec:
    def test_units_become_seconds_and_bytes(self):
        node = load_text(
            HEAD + "  a: {stage: s.t, timeout: 1h30m, resources: {cpus: 0.5, memory: 4GiB}, retry: {backoff: 500ms}}\n",
            file="x",
        ).workflow.nodes["a"]
        assert (node.timeout, node.resources.memory, node.retry.backoff) == (5400, 4 * 2**30, 0.5)

    def test_nothing_is_converted_quietly(self):
        text = (
            HEAD
            + "  a: {stage: s.t, seed: '3', resources: {cpus: '2', fresh_process: yes, gpus: true}, retry: {attempts: 2.0}}\n"
        )
        wheres = [problem.what for problem in problems_in(text)]
        assert len(wheres) == 5
        assert all("wrong type" in what for what in wheres)

    def test_problems_leave_the_rest_of_the_workflow_readable(self):
        text = "version: 3\nname: 5\nsed: 1\nnodes:\n  a: {stage: s.t, timeout: 5, params: {x: 1}}\n  b: 7\n  c: {params: {}}\n"
        loaded = load_text(text, file="x")
        assert [problem.line for problem in loaded.problems] == [1, 2, 3, 5, 6, 7]
        assert loaded.workflow.nodes["a"].params == {"x": 1}
        assert loaded.unread == {("nodes", "b"), ("nodes", "c")}

    def test_a_sweep_stands_apart_and_what_is_wrong_in_it_leaves_the_rest_readable(self):
        text = (
            HEAD
            + "  a: {stage: s.t}\n  search:\n"
            + "    sweep: {trials: 3, space: {b.x: {choice: [1]}, b.y: 7}, objectives: {b.z: maximize}}\n"
            + "    nodes: {b: {stage: s.t}, c: {stage: 1}}\n    anything: else\n"
        )
        loaded = load_text(text, file="x")
        assert [problem.line for problem in loaded.problems] == [6, 7, 8]
        assert list(loaded.workflow.nodes) == ["a"]
        assert list(loaded.workflow.sweeps) == ["search"]
        assert list(loaded.workflow.sweeps["search"].sweep.space) == ["b.x"]
        assert loaded.unread == {("nodes", "search", "nodes", "c")}

    def test_a_short_form_is_the_kind_alone(self):
        text = HEAD + (
            "  s: {sweep: {trials: 3, sampler: random, scheduler: asha, space: {}, objectives: {}}, nodes: {b: {stage: s.t}}}\n"
        )
        sweep = load_text(text, file="x").workflow.sweeps["s"].sweep
        assert (sweep.sampler.kind, sweep.scheduler.kind) == ("random", "asha")

    def test_sweeps_at_the_top_are_no_key_of_a_file(self):
        (problem,) = problems_in(HEAD.replace("nodes:", "sweeps: {}\nnodes:") + "  a: {stage: s.t}\n")
        assert "nodes: {search:" in problem.suggestion


class TestOverrides:
    TEXT = (
        HEAD
        + "  lbc:\n    stage: sparsify.lbc\n    params: &p {epochs: 3, data: {name: synthetic}}\n"
        + "  twin: {stage: sparsify.lbc, params: *p}\n"
    )

    def load(self, *overrides: str):
        loaded = load_text(self.TEXT, file="x.yaml", overrides=overrides)
        assert not loaded.problems, format_problems(loaded.problems)
        return loaded.workflow

    def problem(self, *overrides: str):
        (problem,) = problems_in(self.TEXT, overrides=overrides)
        assert problem.file == f"--set {overrides[0]}"
        assert problem.next_step
        return problem

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("n_m=2:4", "2:4"),
            ("n_m=on", "on"),
            ("n_m=1e-4", 1e-4),
            ("n_m='1'", "1"),
            ("n_m=[1, 2]", [1, 2]),
            ("n_m={a: 1}", {"a": 1}),
            ("n_m=", None),
            ("n_m=a=b", "a=b"),
            ("params.n_m=1", 1),
        ],
    )
    def test_a_value_is_read_as_in_the_file(self, text, value):
        assert self.load(f"lbc.{text}").nodes["lbc"].params["n_m"] == value

    def test_the_last_override_wins_and_the_file_stays(self):
        assert self.load("lbc.epochs=5", "lbc.epochs=7").nodes["lbc"].params["epochs"] == 7

    def test_a_nested_value_is_set_without_touching_what_shares_it(self):
        nodes = self.load("lbc.data.height=16", "lbc.new.deep.x=1").nodes
        assert nodes["lbc"].params == {"epochs": 3, "data": {"name": "synthetic", "height": 16}, "new": {"deep": {"x": 1}}}
        assert nodes["twin"].params == {"epochs": 3, "data": {"name": "synthetic"}}

    def test_seed_and_fields_of_a_node_go_where_they_belong(self):
        workflow = self.load(
            "seed=3", "name=other", "lbc.seed=4", "lbc.resources.cpus=2", "lbc.retry.attempts=1", "lbc.timeout=5m"
        )
        node = workflow.nodes["lbc"]
        assert (workflow.seed, workflow.name, node.seed, node.resources.cpus, node.retry.attempts, node.timeout) == (
            3,
            "other",
            4,
            2,
            1,
            300,
        )

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("lcb.epochs=3", "did you mean lbc?"),
            ("sed=3", "did you mean seed?"),
            ("lbc.epochs", "no value"),
            ("=3", "empty name"),
            ("lbc..epochs=3", "empty name"),
            ("lbc=3", "lbc.param=value"),
            ("lbc.stage=probe.echo", "cannot be set from outside"),
            ("lbc.inputs.model=twin", "cannot be set from outside"),
            ("lbc.epochs.x=3", "single value"),
            ("lbc.n_m=[1", "close the bracket"),
            ("lbc.n_m=*x", "no anchor"),
            ("lbc.n_m=!!python/name:os 1", "tag"),
            ("lbc.n_m=\ud800", "surrogate"),
            ("lbc.n_m=a\0b", "NUL"),
            ("lbc.seed=-1", "at least 0"),
            ("lbc.seed=abc", "a whole number"),
            ("lbc.resources.cpu=1", "did you mean cpus?"),
            ("lbc.timeout=5", "with its unit"),
            ("seed=1.5", "a whole number"),
        ],
    )
    def test_what_cannot_be_set_is_told_at_its_set(self, text, words):
        (problem,) = problems_in(self.TEXT, overrides=[text])
        assert problem.file.startswith("--set ")
        assert problem.line == 0
        assert words in format_problem(problem)

    def test_an_override_of_a_bad_value_mends_it(self):
        text = HEAD + "  a: {stage: s.t, timeout: 5}\n"
        assert problems_in(text)
        assert not problems_in(text, overrides=["a.timeout=5s"])

    def test_overrides_are_kept_with_the_workflow(self):
        assert load_text(self.TEXT, file="x", overrides=["seed=3"]).overrides == ("seed=3",)


def test_reading_and_checking_imports_neither_torch_nor_ray_nor_numpy():
    """`plan` has to answer within 300 ms."""
    code = (
        "import sys\n"
        "from orchestrator.workflow.check import check_workflow\n"
        "from orchestrator.workflow.load import load_text\n"
        "from orchestrator.report.problems import format_problem\n"
        "check_workflow(load_text('version: 1\\nname: x\\nnodes:\\n"
        "  p: {stage: pretrain.classifier, params: {model: vit_micro, data: digits}}\\n"
        "  s: {stage: sparsify.lbc, params: {data: digits}, inputs: {model: p}}\\n', file='x'))\n"
        "heavy = {'torch', 'ray', 'numpy', 'sklearn', 'timm', 'onnx', 'botocore'}\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_file_of_fifty_nodes_and_a_list_of_thousands_load_in_milliseconds():
    """Bounds are ten times what a quiet machine needs (3 ms and 7 ms)."""
    import time

    nodes = "".join(
        f"  n{i}:\n    stage: sparsify.lbc\n    params: {{data: digits, n_m: 2:4, epochs: 30, learning_rate: 1e-3}}\n"
        for i in range(50)
    )
    values = ", ".join(str(i / 10) for i in range(3000))
    for text in (HEAD + nodes, HEAD + f"  a: {{stage: probe.sleep, foreach: {{seconds: [{values}]}}}}\n"):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            load_text(text, file="x")
            times.append(time.perf_counter() - start)
        assert min(times) < 0.1

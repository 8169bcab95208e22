"""Plans: expansion, hits, why, drift, selection. Artifacts are made through the inline executor."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from orchestrator import api
from orchestrator.errors import PlanError, UsageError, WorkflowError
from orchestrator.workflow import drift
from orchestrator.workflow.check import check_workflow
from orchestrator.workflow.explain import Explainer
from orchestrator.workflow.load import load_text
from orchestrator.workflow.plan import Plan, Selection, Status
from orchestrator.workflow.smoke import smoke_overrides

CHAIN = """
version: 1
name: chain
nodes:
  first: {stage: probe.echo, params: {value: 1}}
  second: {stage: probe.echo, params: {value: 2}, inputs: {inputs: first}}
  third: {stage: probe.echo, params: {value: 3}, inputs: {inputs: second}}
"""


@pytest.fixture
def workspace(tmp_path: Path) -> api.Workspace:
    return api.open_workspace(str(tmp_path / "store"))


def plan_text(
    text: str, workspace: api.Workspace, *, selection: Selection | None = None, overrides: tuple[str, ...] = ()
) -> Plan:
    checked = check_workflow(load_text(textwrap.dedent(text), file="w.yaml", overrides=overrides))
    return api.plan_checked(checked, workspace=workspace, selection=selection)


def run(text: str, workspace: api.Workspace, **options) -> api.RunResult:
    return api.submit(plan_text(text, workspace, **options), workspace=workspace, executor="inline")


def statuses(plan: Plan) -> dict[str, str]:
    return {label: node.status.value for label, node in plan.nodes.items()}


def labels(text: str, workspace: api.Workspace) -> list[str]:
    return list(plan_text(text, workspace).nodes)


def test_nodes_come_in_an_order_in_which_they_can_run(workspace):
    text = """
        version: 1
        name: backwards
        nodes:
          last: {stage: probe.echo, inputs: {inputs: [middle, first]}}
          middle: {stage: probe.echo, inputs: {inputs: first}}
          first: {stage: probe.echo}
        """
    assert labels(text, workspace) == ["first", "middle", "last"]


def test_renaming_a_node_or_reordering_the_file_changes_no_key(workspace):
    renamed = CHAIN.replace("first", "start").replace("third", "end")
    keys = [node.key for node in plan_text(CHAIN, workspace).nodes.values()]
    assert [node.key for node in plan_text(renamed, workspace).nodes.values()] == keys


@pytest.mark.parametrize(
    "line",
    [
        "resources: {cpus: 2, memory: 1GiB}",
        "retry: {attempts: 5, backoff: 10s}",
        "timeout: 1h",
        "needs: []",
    ],
)
def test_placement_changes_no_key(workspace, line):
    placed = CHAIN.replace("params: {value: 1}", f"params: {{value: 1}}, {line}")
    assert [n.key for n in plan_text(placed, workspace).nodes.values()] == [
        n.key for n in plan_text(CHAIN, workspace).nodes.values()
    ]


def test_seed_of_the_workflow_reaches_every_key_and_a_nodes_own_only_its_own_line(workspace):
    keys = [node.key for node in plan_text(CHAIN, workspace).nodes.values()]
    seeded = [node.key for node in plan_text(CHAIN, workspace, overrides=("seed=1",)).nodes.values()]
    assert all(a != b for a, b in zip(keys, seeded, strict=True))
    own = [node.key for node in plan_text(CHAIN, workspace, overrides=("second.seed=1",)).nodes.values()]
    assert own[0] == keys[0]
    assert own[1] != keys[1]
    assert own[2] != keys[2]


def test_foreach_makes_one_node_per_combination_and_carries_on_below(workspace):
    text = """
        version: 1
        name: grid
        nodes:
          base: {stage: probe.bytes, params: {size: 8}}
          wide: {stage: probe.bytes, inputs: {input: base}, foreach: {size: [16, 32]}}
          tail: {stage: probe.bytes, params: {size: 4}, inputs: {input: wide}}
          all: {stage: probe.echo, inputs: {inputs: [base, tail]}}
        """
    plan = plan_text(text, workspace)
    assert list(plan.nodes) == [
        "base", "wide[size=16]", "wide[size=32]", "tail[size=16]", "tail[size=32]", "all",
    ]  # fmt: skip
    assert plan.nodes["tail[size=32]"].inputs == {"input": "wide[size=32]"}
    assert plan.nodes["all"].inputs == {"inputs": ("base", "tail[size=16]", "tail[size=32]")}


def test_foreach_over_an_input_takes_each_listed_node_with_its_own_expansion(workspace):
    text = """
        version: 1
        name: arms
        nodes:
          plain: {stage: probe.bytes, params: {size: 8}}
          wide: {stage: probe.bytes, foreach: {size: [16, 32]}}
          tail: {stage: probe.bytes, params: {size: 4}, foreach: {input: [plain, wide]}}
        """
    plan = plan_text(text, workspace)
    assert [node.inputs["input"] for node in plan.nodes.values() if node.node == "tail"] == [
        "plain",
        "wide[size=16]",
        "wide[size=32]",
    ]


def test_two_ports_meet_where_they_agree_on_what_they_share(workspace):
    """`evaluate {model: tune, exported: export}` must pair each model with its own file, not with all files."""
    text = """
        version: 1
        name: zip
        nodes:
          source: {stage: pretrain.classifier, params: {model: vit_micro, data: digits}, foreach: {epochs: [1, 2]}}
          tune: {stage: finetune.distill, inputs: {model: source, teacher: source}, params: {data: digits}}
          cross:
            stage: finetune.distill
            inputs: {model: tune, teacher: source}
            params: {data: digits}
            foreach: {epochs: [1, 2, 3]}
        """
    plan = plan_text(text, workspace)
    pairs = [(node.inputs["model"], node.inputs["teacher"]) for node in plan.nodes.values() if node.node == "tune"]
    assert pairs == [("source[epochs=1]",) * 2, ("source[epochs=2]",) * 2]
    assert sum(node.node == "cross" for node in plan.nodes.values()) == 6


def test_equal_nodes_are_planned_once_and_shown_as_shared(workspace):
    text = """
        version: 1
        name: twins
        nodes:
          one: {stage: probe.echo, params: {value: 5}}
          two: {stage: probe.echo, params: {value: 5}}
        """
    assert statuses(plan_text(text, workspace)) == {"one": "RUN", "two": "SHARED"}
    result = run(text, workspace)
    assert [node.ending for node in result.status.nodes.values()] == ["done", "shared"]
    assert statuses(plan_text(text, workspace)) == {"one": "HIT", "two": "SHARED"}
    assert not plan_text(text, workspace).has_work


def test_only_a_changed_node_and_what_follows_runs_again(workspace):
    run(CHAIN, workspace)
    changed = plan_text(CHAIN, workspace, overrides=("second.value=9",))
    assert statuses(changed) == {"first": "HIT", "second": "RUN", "third": "RUN"}
    explainer = Explainer(changed, workspace.artifacts)
    assert "settings.value: 2 -> 9" in explainer.reason(changed.nodes["second"])
    assert explainer.reason(changed.nodes["third"]) == "input inputs changed: follows second"


def test_rerun_forces_a_node_and_all_below_and_leaves_the_rest(workspace):
    run(CHAIN, workspace)
    selection = Selection(rerun=("second",))
    assert statuses(plan_text(CHAIN, workspace, selection=selection)) == {"first": "HIT", "second": "RUN", "third": "RUN"}
    before = {node.key: node.record.finished for node in plan_text(CHAIN, workspace).nodes.values()}
    run(CHAIN, workspace, selection=selection)
    after = plan_text(CHAIN, workspace)
    assert statuses(after) == {"first": "HIT", "second": "HIT", "third": "HIT"}
    assert [node.record.finished > before[node.key] for node in after.nodes.values()] == [False, True, True]


def test_rerun_of_a_node_reaches_its_twin_that_comes_first(workspace):
    text = """
        version: 1
        name: twins
        nodes:
          one: {stage: probe.echo, params: {value: 5}}
          two: {stage: probe.echo, params: {value: 5}}
        """
    run(text, workspace)
    assert statuses(plan_text(text, workspace, selection=Selection(rerun=("two",)))) == {"one": "RUN", "two": "SHARED"}


def test_until_and_from_choose_a_part_and_from_wants_what_is_above_to_be_there(workspace):
    assert list(plan_text(CHAIN, workspace, selection=Selection(until=("second",))).nodes) == ["first", "second"]
    with pytest.raises(UsageError, match='needs "first"'):
        plan_text(CHAIN, workspace, selection=Selection(start=("second",)))
    run(CHAIN, workspace, selection=Selection(until=("first",)))
    assert statuses(plan_text(CHAIN, workspace, selection=Selection(start=("second",)))) == {
        "first": "HIT", "second": "RUN", "third": "RUN",
    }  # fmt: skip
    with pytest.raises(UsageError, match='no node "secnd"'):
        plan_text(CHAIN, workspace, selection=Selection(rerun=("secnd",)))


def test_a_condition_that_is_known_to_fail_skips_the_node_and_what_needs_it(workspace):
    text = """
        version: 1
        name: gate
        nodes:
          judge: {stage: probe.echo, params: {value: 0.3}}
          good: {stage: probe.echo, when: {metric: judge.value, min: 0.5}}
          after: {stage: probe.echo, inputs: {inputs: good}}
          bad: {stage: probe.echo, params: {value: b}, when: {metric: judge.value, max: 0.5}}
        """
    assert [node.status for node in plan_text(text, workspace).nodes.values()] == [Status.RUN] * 4
    result = run(text, workspace)
    assert {label: node.state for label, node in result.status.nodes.items()} == {
        "judge": "done", "good": "skipped", "after": "skipped", "bad": "done",
    }  # fmt: skip
    assert statuses(plan_text(text, workspace)) == {"judge": "HIT", "good": "SKIP", "after": "SKIP", "bad": "HIT"}


def test_a_missing_blob_is_a_miss(workspace):
    run(CHAIN, workspace)
    record = plan_text(CHAIN, workspace).nodes["second"].record
    workspace.store.remove_blob(record.files["value.json"].digest)
    assert statuses(plan_text(CHAIN, workspace)) == {"first": "HIT", "second": "RUN", "third": "HIT"}
    run(CHAIN, workspace)
    assert statuses(plan_text(CHAIN, workspace)) == {"first": "HIT", "second": "HIT", "third": "HIT"}


def test_a_changed_source_shows_as_drift_and_stays_a_hit(workspace, monkeypatch):
    run(CHAIN, workspace)
    assert not plan_text(CHAIN, workspace).drifted
    monkeypatch.setattr("orchestrator.workflow.plan.source_digest", lambda _implementation: "other")
    plan = plan_text(CHAIN, workspace)
    assert [node.label for node in plan.drifted] == ["first", "second", "third"]
    assert not plan.has_work
    assert plan_text(CHAIN, workspace, selection=Selection(rerun=("drifted",))).has_work


def test_source_digest_covers_imported_modules_and_follows_a_comment(tmp_path, monkeypatch):
    package = tmp_path / "toymethods"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "stage.py").write_text("from toymethods import helper\ndef run(context):\n    import toymethods.deep\n")
    (package / "helper.py").write_text("A = 1\n")
    (package / "deep.py").write_text("B = 1\n")
    (package / "stranger.py").write_text("C = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("toymethods")

    def digest() -> str:
        drift.source_digest.cache_clear()
        drift._read_module.cache_clear()
        return drift.source_digest("toymethods.stage:run")

    first = digest()
    for name, matters in (("deep", True), ("helper", True), ("stranger", False), ("stage", True)):
        before = digest()
        with (package / f"{name}.py").open("a") as file:
            file.write("# a comment\n")
        assert (digest() != before) is matters, name
    assert first


def test_values_that_only_together_are_wrong_stop_the_plan_with_the_node(workspace):
    text = """
        version: 1
        name: late
        nodes:
          base: {stage: pretrain.classifier, params: {model: vit_micro, data: digits}}
          lbc:
            stage: sparsify.lbc
            inputs: {model: base}
            params: {data: digits, removal_start: 0.4}
            foreach: {removal_end: [0.3, 0.5]}
        """
    with pytest.raises(WorkflowError) as caught:
        plan_text(text, workspace)
    assert 'node "lbc"' in caught.value.problems[0].what
    assert caught.value.problems[0].line == 9


def test_planning_writes_nothing(workspace, tmp_path):
    plan_text(CHAIN, workspace)
    assert not (tmp_path / "store").exists()


def test_workers_that_cannot_share_a_batch_are_refused_before_anything_runs(plan_text):
    text = """
        version: 1
        name: w
        nodes:
          train:
            stage: pretrain.classifier
            params: {model: cnn_micro, data: digits, batch_size: 64}
            resources: {workers: 3}
    """
    with pytest.raises(PlanError, match='node "train": batch_size 64 cannot be shared equally by 3 workers'):
        plan_text(text)
    assert plan_text(text.replace("workers: 3", "workers: 4")).nodes["train"].identity["workers"] == 4


def test_a_smoke_run_asks_for_no_gpu_no_compiler_and_no_other_worker(plan_text):
    """What is tried out on a laptop before it goes to a cluster must run there."""
    text = """
        version: 1
        name: w
        nodes:
          train:
            stage: pretrain.classifier
            params: {model: cnn_micro, data: digits, batch_size: 512, accumulate_steps: 64, precision: float16, compile: true}
            resources: {workers: 8, gpus: 1}
    """
    checked = check_workflow(load_text(textwrap.dedent(text), file="w.yaml"))
    node = plan_text(text, overrides=smoke_overrides(checked)).nodes["train"]
    settings = node.settings
    assert (settings.batch_size, settings.accumulate_steps, settings.precision, settings.compile) == (32, 1, "bfloat16", False)
    assert (node.asked.resources.workers, node.asked.resources.gpus) == (1, 0)

"""Plans with sweeps: what waits, what a settled sweep adds, selections, and what the plan shows."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweep_plans import GRID, NONE, TEXT, plan, result, run, settle, sweep_of

from orchestrator import api
from orchestrator.errors import UsageError
from orchestrator.report.plan_table import plan_document, plan_lines
from orchestrator.report.text import Style
from orchestrator.workflow.plan import Plan, Selection, SweepStatus
from orchestrator.workflow.sweep_result import SweepResult, TrialRecord


class TestPlansAroundASweep:
    def test_what_refers_to_a_sweep_waits_until_it_has_settled(self, empty):
        before = plan(empty)
        assert list(before.nodes) == ["base", "aside"]
        assert before.later == dict.fromkeys(("after", "shown", "shown_on", "all"), "search")
        assert before.has_work
        sweep = before.sweeps["search"]
        assert (sweep.status, sweep.after, list(sweep.outer)) == (SweepStatus.SEARCH, ("base",), ["base"])

    def test_a_settled_sweep_brings_its_best_and_its_front_into_the_plan(self, empty):
        after = plan(empty, results={"search": result()})
        assert not after.later
        assert list(after.nodes) == [
            "base",
            *("search/t0002/tune", "search/t0002/score", "search/t0001/tune", "search/t0001/score"),
            "after",
            *("shown[front=t0002]", "shown[front=t0001]", "shown_on[front=t0002]", "shown_on[front=t0001]"),
            *("all", "aside"),
        ]
        assert after.nodes["after"].inputs == {"inputs": ("search/t0002/tune",)}
        assert after.nodes["shown_on[front=t0001]"].inputs == {"input": "shown[front=t0001]"}

    def test_two_references_to_the_front_meet_on_the_same_trial(self, empty):
        text = """
            version: 1
            name: meet
            nodes:
              base: {stage: pretrain.classifier, params: {model: vit_micro, data: digits}}
              search:
                sweep:
                  trials: 3
                  objectives: {a.top1_accuracy: maximize}
                  space: {a.epochs: {choice: [1, 2]}}
                nodes:
                  a: {stage: finetune.classifier, inputs: {model: base}, params: {data: digits}}
              tuned: {stage: finetune.classifier, inputs: {model: search.front.a}, params: {data: digits}}
              both: {stage: finetune.distill, inputs: {model: tuned, teacher: search.front.a}, params: {data: digits}}
            """
        trials = [TrialRecord(number=number, values={"a.epochs": number + 1}, state="done") for number in (0, 1)]
        found = SweepResult(trials=trials, front=(1, 0), best=1, verdict="", rule="best", objectives={})
        nodes = [node for node in plan(empty, text, results={"search": found}).nodes.values() if node.node == "both"]
        assert [node.inputs for node in nodes] == [
            {"model": f"tuned[front={trial}]", "teacher": f"search/{trial}/a"} for trial in ("t0001", "t0000")
        ]

    @given(
        front=st.permutations([0, 1, 2]).flatmap(lambda order: st.integers(1, 3).map(lambda length: tuple(order[:length]))),
        data=st.data(),
    )
    def test_what_was_planned_before_keeps_labels_keys_and_order(self, empty, front, data):
        """The scheduler takes the second plan for the first one grown; a changed key would be another node."""
        before = plan(empty)
        after = plan(empty, results={"search": result(best=data.draw(st.sampled_from(front)), front=front)})
        assert {label: after.nodes[label].key for label in before.nodes} == {
            label: node.key for label, node in before.nodes.items()
        }
        assert after.sweeps["search"].key == before.sweeps["search"].key
        seen: set[str] = set()
        for label, node in after.nodes.items():
            assert set(node.parents) <= seen
            seen.add(label)
        assert before.later.keys() <= {node.node for node in after.nodes.values()}

    def test_a_settled_sweep_is_found_in_the_store_and_its_lost_artifacts_are_made_again(self, workspace, tmp_path):
        sweep = sweep_of(workspace)
        settle(workspace, sweep, result(), tmp_path)
        after = plan(workspace)
        assert after.sweeps["search"].status is SweepStatus.HIT
        assert json.dumps(after.sweeps["search"].result.to_data()) == json.dumps(result().to_data())
        assert after.nodes["search/t0002/tune"].status.value == "RUN"
        api.submit(after, workspace=workspace, executor="inline")
        finished = plan(workspace)
        assert not finished.has_work
        record = finished.nodes["search/t0002/tune"].record
        workspace.store.remove_blob(record.files["value.json"].digest)
        assert plan(workspace).nodes["search/t0002/tune"].status.value == "RUN"

    def test_a_damaged_result_is_searched_anew(self, workspace, tmp_path):
        record = settle(workspace, sweep_of(workspace), result(), tmp_path)
        blob = workspace.store.blob_path(record.files["sweep.json"].digest)
        blob.chmod(0o644)
        blob.write_bytes(b"x" * record.files["sweep.json"].size_bytes)
        sweep = sweep_of(workspace)
        assert (sweep.status, sweep.result, sweep.record) == (SweepStatus.SEARCH, None, record)
        assert "cannot be read" in sweep.note

    def test_without_a_best_trial_what_refers_to_it_is_skipped_and_says_why(self, empty):
        after = plan(empty, results={"search": NONE})
        assert set(after.nodes) == {"base", "aside"}
        assert after.skipped.keys() == {"after", "shown", "shown_on", "all"}
        assert after.skipped["after"] == 'no trial of "search" meets the constraints: none is within 5 of base'
        assert "needs" in after.skipped["all"]

    def test_a_node_that_only_needs_the_sweep_waits_for_it_and_runs_whatever_it_found(self, empty):
        text = TEXT + "  told: {stage: probe.echo, needs: [search]}\n"
        assert plan(empty, text).later["told"] == "search"
        assert plan(empty, text, results={"search": NONE}).nodes["told"].after == ()

    def test_trials_that_go_on_from_others_are_planned_with_what_they_go_on_from(self, empty):
        text = (
            TEXT.replace("sampler: random", "sampler: {kind: pbt, population: 2, carry: {tune.input: tune}}")
            .replace("tune: {stage: probe.sleep, inputs: {inputs: base}}", "tune: {stage: probe.bytes, inputs: {input: base}}")
            .replace("tune.num_inputs", "tune.size_bytes")
            .replace("        tune.seconds: {uniform: [0.0, 0.5]}\n", "")
            .replace("tune.value: {choice: [a, b]}", "tune.size: {choice: [8, 9]}")
            .replace("tune.value: [b]", "tune.size: [9]")
        )
        trials = [
            TrialRecord(number=number, values={"tune.size": 8}, state="done", parent=parent)
            for number, parent in enumerate((None, 0, 1))
        ]
        found = replace(result(front=(2,)), trials=trials)
        nodes = plan(empty, text, results={"search": found}).nodes
        assert [label for label in nodes if label.startswith("search/")] == [
            "search/t0000/tune", "search/t0001/tune", "search/t0002/tune", "search/t0002/score",
        ]  # fmt: skip
        assert nodes["search/t0002/tune"].inputs == {"input": "search/t0001/tune"}

    def test_a_sweep_after_a_sweep_waits_for_the_first(self, empty):
        second = (
            TEXT.partition("  search:\n")[2].partition("  after:")[0].replace("{inputs: base}", "{inputs: search.best.tune}")
        )
        text = TEXT + "  other:\n" + second + "  last: {stage: probe.echo, inputs: {inputs: other.best.score}}\n"
        before = plan(empty, text)
        assert list(before.sweeps) == ["search"]
        assert before.later["other"] == before.later["last"] == "search"
        between = plan(empty, text, results={"search": result()})
        assert between.later == {"last": "other"}
        assert between.sweeps["other"].after == ("base", "search/t0002/tune")
        assert not plan(empty, text, results={"search": result(), "other": result()}).later
        assert {"other", "last"} <= plan(empty, text, results={"search": NONE}).skipped.keys()

    def test_a_condition_may_look_at_the_best_trial(self, workspace, tmp_path):
        text = TEXT + "  gate: {stage: probe.echo, when: {metric: search.best.score.value, min: 100}}\n"
        settle(workspace, sweep_of(workspace, text), result(), tmp_path)
        run(workspace, text)
        assert plan(workspace, text).nodes["gate"].note == "when: search.best.score.value is 9, below 100"

    def test_a_sweep_below_a_skipped_node_does_not_search(self, workspace):
        gate = "when: {metric: judge.value, min: 1}"
        text = TEXT.replace("base: {stage: probe.echo,", f"base: {{stage: probe.echo, {gate},")
        text += "  judge: {stage: probe.echo, params: {value: 0}}\n"
        run(workspace, "version: 1\nname: x\nnodes:\n  judge: {stage: probe.echo, params: {value: 0}}\n")
        after = plan(workspace, text)
        assert after.sweeps["search"].status is SweepStatus.SKIP
        assert after.skipped["after"] == "needs search, which is skipped"
        assert not after.later


class TestSelection:
    def test_until_a_sweep_stops_after_it_and_until_a_later_node_includes_it(self, empty):
        upto = plan(empty, selection=Selection(until=("search",)))
        assert (list(upto.nodes), list(upto.sweeps), dict(upto.later)) == (["base"], ["search"], {})
        further = plan(empty, selection=Selection(until=("after",)))
        assert (list(further.nodes), dict(further.later)) == (["base"], {"after": "search"})
        assert not plan(empty, selection=Selection(until=("aside",))).sweeps

    def test_rerun_of_a_sweep_searches_anew_and_leaves_its_trials_hits(self, workspace, tmp_path):
        settle(workspace, sweep_of(workspace), result(), tmp_path)
        run(workspace, TEXT)
        again = plan(workspace, selection=Selection(rerun=("search",)))
        sweep = again.sweeps["search"]
        assert (sweep.status, sweep.forced, sweep.note) == (SweepStatus.SEARCH, True, "asked to search again")
        assert again.later.keys() == {"after", "shown", "shown_on", "all"}
        settled = plan(workspace, selection=Selection(rerun=("search",)), results={"search": result()})
        assert not settled.has_work

    def test_rerun_of_a_node_above_reaches_the_sweep(self, workspace, tmp_path):
        settle(workspace, sweep_of(workspace), result(), tmp_path)
        assert sweep_of(workspace, selection=Selection(rerun=("base",))).forced
        assert not sweep_of(workspace, selection=Selection(rerun=("after",))).forced

    def test_from_a_sweep_wants_what_is_above_and_from_below_wants_it_settled(self, workspace, tmp_path):
        with pytest.raises(UsageError, match='needs "base"'):
            plan(workspace, selection=Selection(start=("search",)))
        run(workspace, TEXT.partition("  search:")[0])
        chosen = plan(workspace, selection=Selection(start=("search",)))
        assert list(chosen.nodes) == ["base"]
        with pytest.raises(UsageError, match='needs "search"'):
            plan(workspace, selection=Selection(start=("after",)))
        with pytest.raises(UsageError, match='no node "serch"'):
            plan(workspace, selection=Selection(rerun=("serch",)))


class TestShown:
    def lines(self, made: Plan, workspace: api.Workspace) -> str:
        return "\n".join(plan_lines(made, workspace.artifacts, place="here", style=Style(), width=None))

    def test_a_sweep_and_what_waits_for_it_have_their_rows(self, empty):
        shown = self.lines(plan(empty), empty)
        assert "demo  2 nodes, 1 sweep   store here" in shown
        assert "sweep: 4 trials, random, 2 objectives; what they share cannot be counted before they run" in shown
        assert "LATER   after" in shown
        assert "after search" in shown
        assert "2 to run, 0 hits, 0 shared, 1 sweep to search, 4 later\n" in shown
        assert shown.endswith("no record yet of what is to run")

    def test_a_grid_says_what_its_trials_share(self, empty):
        assert "sweep: 15 trials, grid, 1 objective; 45 nodes, 23 of them different (2x shared)" in self.lines(
            plan(empty, GRID), empty
        )
        some = plan(empty, GRID, overrides=("search.trials=6", "search.sampler=random"))
        assert "6 trials of 15 settings, random, 1 objective; all settings: 45 nodes" in self.lines(some, empty)

    def test_a_settled_sweep_says_its_best(self, empty):
        assert "sweep: best t0002 of 3 trials, random, 2 objectives" in self.lines(
            plan(empty, results={"search": result()}), empty
        )
        without = self.lines(plan(empty, results={"search": NONE}), empty)
        assert "no trial meets the constraints" in without
        assert "SKIP    after" in without

    def test_the_document_has_sweeps_and_later_nodes(self, empty):
        document = plan_document(plan(empty), empty.artifacts)
        json.dumps(document)
        assert document["later"]["after"] == "search"
        (sweep,) = document["sweeps"]
        assert (sweep["sweep"], sweep["status"], sweep["trials"], sweep["counted"]) == ("search", "SEARCH", 4, None)


def test_planning_a_sweep_imports_neither_torch_nor_ray_nor_optuna():
    """`plan` has to answer within 300 ms, with sweeps too."""
    code = (
        "import sys\n"
        "from orchestrator import api\n"
        "from orchestrator.report.plan_table import plan_lines\n"
        "from orchestrator.report.text import Style\n"
        "from orchestrator.workflow.check import check_workflow\n"
        "from orchestrator.workflow.load import load_text\n"
        f"checked = check_workflow(load_text({GRID!r}, file='x'))\n"
        "workspace = api.open_workspace('/nowhere')\n"
        "plan = api.plan_checked(checked, workspace=workspace)\n"
        "plan_lines(plan, workspace.artifacts, place='', style=Style(), width=None)\n"
        "heavy = {'torch', 'ray', 'numpy', 'optuna', 'pyarrow', 'sklearn', 'timm', 'onnx', 'botocore'}\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

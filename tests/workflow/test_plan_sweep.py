"""Plans with sweeps: keys of trials, what waits, what a settled sweep adds, selections, and what the plan shows."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import api
from orchestrator.errors import PlanError, UsageError
from orchestrator.report.plan_table import plan_document, plan_lines
from orchestrator.report.text import Style
from orchestrator.store.artifacts import Record, content_digest
from orchestrator.workflow.check import check_workflow
from orchestrator.workflow.count import TrialCount, count_trials
from orchestrator.workflow.load import load_text
from orchestrator.workflow.plan import Plan, PlanSweep, Selection, SweepStatus
from orchestrator.workflow.planning import make_plan
from orchestrator.workflow.statuses import with_status
from orchestrator.workflow.sweep_result import SWEEP_STAGE, SweepResult, TrialRecord
from orchestrator.workflow.trials import plan_trial, trial_label

TEXT = """
version: 1
name: demo
nodes:
  base: {stage: probe.echo, params: {value: 1}}
  search:
    sweep:
      trials: 4
      sampler: random
      objectives: {score.value: maximize, tune.num_inputs: minimize}
      constraints: [{metric: score.value, max_drop: 5, versus: base.value}]
      space:
        tune.seconds: {uniform: [0.0, 0.5]}
        tune.value: {choice: [a, b]}
        score.value: {int: [1, 9], when: {tune.value: [b]}}
    nodes:
      tune: {stage: probe.sleep, inputs: {inputs: base}}
      score: {stage: probe.echo, inputs: {inputs: tune}, params: {value: 0}}
  after: {stage: probe.echo, inputs: {inputs: search.best.tune}}
  shown: {stage: probe.bytes, foreach: {input: search.front.tune}}
  shown_on: {stage: probe.bytes, params: {size: 3}, inputs: {input: shown}}
  all: {stage: probe.echo, inputs: {inputs: [shown_on, after, base]}}
  aside: {stage: probe.echo, params: {value: 7}}
"""
VALUES = [
    {"tune.seconds": 0.1, "tune.value": "a"},
    {"tune.seconds": 0.2, "tune.value": "b", "score.value": 5},
    {"tune.seconds": 0.1, "tune.value": "b", "score.value": 9},
]


def result(*, best: int | None = 2, front: tuple[int, ...] = (2, 1)) -> SweepResult:
    trials = [TrialRecord(number=number, values=values, state="done") for number, values in enumerate(VALUES)]
    return SweepResult(trials=trials, front=front, best=best, verdict="none is within 5 of base", rule="best", objectives={})


NONE = result(best=None, front=())


def checked(text: str = TEXT, *, overrides: tuple[str, ...] = ()):
    return check_workflow(load_text(textwrap.dedent(text), file="w.yaml", overrides=overrides))


def plan(workspace: api.Workspace, text: str = TEXT, *, overrides: tuple[str, ...] = (), selection=None, **options) -> Plan:
    return make_plan(checked(text, overrides=overrides), workspace.artifacts, selection=selection, **options)


def sweep_of(workspace: api.Workspace, text: str = TEXT, **options) -> PlanSweep:
    return plan(workspace, text, **options).sweeps["search"]


def settle(workspace: api.Workspace, sweep: PlanSweep, found: SweepResult, tmp_path: Path) -> Record:
    """Keep a result in the store as a finished search does."""
    folder = tmp_path / "output"
    folder.mkdir()
    (folder / "sweep.json").write_text(json.dumps(found.to_data()))
    files = workspace.artifacts.take_files(folder)
    record = Record(
        key=sweep.key, stage=SWEEP_STAGE, kind="sweep", identity=sweep.identity, files=files, metrics={}, measurements={},
        content_digest=content_digest(files, {}), input_digests={}, source_digest="", label="search", run="r", attempt=1,
        finished="2026-01-01T00:00:00Z", seconds=1.0,
    )  # fmt: skip
    return workspace.artifacts.publish(record)


def run(workspace: api.Workspace, text: str, *, overrides: tuple[str, ...] = ()) -> None:
    api.submit(plan(workspace, text, overrides=overrides), workspace=workspace, executor="inline")


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> api.Workspace:
    """A store that stays empty: planning writes nothing."""
    return api.open_workspace(str(tmp_path_factory.mktemp("empty") / "store"))


class TestTrials:
    def test_a_trial_is_labelled_by_sweep_number_and_node(self, empty):
        sweep = sweep_of(empty)
        nodes = plan_trial(sweep.checked, trial=trial_label("search", 7), values=VALUES[1], outer=sweep.outer)
        assert list(nodes) == ["search/t0007/tune", "search/t0007/score"]
        assert [node.node for node in nodes.values()] == ["search.tune", "search.score"]
        assert nodes["search/t0007/tune"].inputs == {"inputs": ("base",)}
        assert nodes["search/t0007/score"].inputs == {"inputs": ("search/t0007/tune",)}

    @given(
        seconds=st.floats(0, 0.5),
        value=st.sampled_from(["a", "b"]),
        score=st.integers(1, 9),
        seed=st.none() | st.integers(0, 99),
        order=st.permutations(["tune.seconds", "tune.value", "score.value"]),
    )
    def test_keys_of_a_trial_are_those_of_the_same_nodes_written_out(self, empty, seconds, value, score, seed, order):
        """A node that some earlier workflow made must be a hit of the trial, and the other way round."""
        values = {"tune.seconds": seconds, "tune.value": value, "score.value": score}
        sweep = sweep_of(empty)
        trial = plan_trial(
            sweep.checked, trial="search/t0000", values={name: values[name] for name in order}, outer=sweep.outer, seed=seed
        )
        written = f"""
            version: 1
            name: written_out
            nodes:
              base: {{stage: probe.echo, params: {{value: 1}}}}
              tune: {{stage: probe.sleep, inputs: {{inputs: base}}, params: {json.dumps({"seconds": seconds, "value": value})}}}
              score: {{stage: probe.echo, inputs: {{inputs: tune}}, params: {{value: {score if value == "b" else 0}}}}}
            """
        own = () if seed is None else (f"tune.seed={seed}", f"score.seed={seed}")
        nodes = plan(empty, written, overrides=own).nodes
        assert {label.rpartition("/")[2]: node.key for label, node in trial.items()} == {
            name: nodes[name].key for name in ("tune", "score")
        }

    def test_a_nodes_own_seed_wins_over_that_of_a_repeat_and_of_the_workflow(self, empty):
        sweep = sweep_of(empty, overrides=("search.tune.seed=5", "seed=3"))
        nodes = plan_trial(sweep.checked, trial="x", values=VALUES[0], outer=sweep.outer)
        again = plan_trial(sweep.checked, trial="x.s8", values=VALUES[0], outer=sweep.outer, seed=8)
        assert [node.seed for node in nodes.values()] == [5, 3]
        assert [node.seed for node in again.values()] == [5, 8]

    def test_what_is_carried_takes_the_place_of_an_input(self, empty):
        text = TEXT.replace(
            "score: {stage: probe.echo, inputs: {inputs: tune}", "score: {stage: probe.bytes, inputs: {input: tune}"
        )
        text = (
            text.replace("score.value", "score.size")
            .replace("{value: 0}", "{size: 1}")
            .replace(".size: max", ".size_bytes: max")
        )
        sweep = sweep_of(empty, text.replace("metric: score.size", "metric: score.size_bytes"))
        parent = plan_trial(sweep.checked, trial="search/t0000", values=VALUES[0], outer=sweep.outer)
        carried = {"score.input": parent["search/t0000/score"]}
        child = plan_trial(sweep.checked, trial="search/t0001", values=VALUES[0], outer=sweep.outer, carried=carried)
        assert child["search/t0001/score"].inputs == {"input": "search/t0000/score"}
        assert child["search/t0001/score"].identity["inputs"] == {"input": parent["search/t0000/score"].key}
        assert child["search/t0001/tune"].key == parent["search/t0000/tune"].key

    def test_values_that_a_stage_refuses_together_stop_that_trial(self, empty):
        text = """
            version: 1
            name: refused
            nodes:
              base: {stage: pretrain.classifier, params: {model: vit_micro, data: digits}}
              search:
                sweep:
                  trials: 2
                  objectives: {lbc.top1_accuracy: maximize}
                  space: {lbc.removal_start: {uniform: [0.0, 0.6]}, lbc.removal_end: {uniform: [0.3, 0.8]}}
                nodes:
                  lbc: {stage: sparsify.lbc, inputs: {model: base}, params: {data: digits}}
            """
        sweep = sweep_of(empty, text)
        values = {"lbc.removal_start": 0.6, "lbc.removal_end": 0.4}
        with pytest.raises(PlanError, match="search/t0001/lbc"):
            plan_trial(sweep.checked, trial="search/t0001", values=values, outer=sweep.outer)

    def test_a_trial_whose_nodes_were_made_before_is_a_hit(self, workspace):
        sweep = sweep_of(workspace)
        nodes = plan_trial(sweep.checked, trial="search/t0000", values={**VALUES[0], "tune.seconds": 0.0}, outer=sweep.outer)
        assert {node.status.value for node in with_status(nodes, workspace.artifacts).values()} == {"RUN"}
        written = TEXT.partition("  search:")[0] + (
            "  tune: {stage: probe.sleep, params: {value: a, seconds: 0.0}, inputs: {inputs: base}}\n"
            "  score: {stage: probe.echo, params: {value: 0}, inputs: {inputs: tune}}\n"
        )
        run(workspace, written)
        outer = sweep.outer.values()
        assert {node.status.value for node in with_status(nodes, workspace.artifacts, outer=outer).values()} == {"HIT"}


class TestIdentity:
    def keys(self, workspace, text=TEXT, *overrides):
        sweep = sweep_of(workspace, text, overrides=overrides)
        return sweep.key, sweep.family

    @pytest.mark.parametrize(
        ("override", "changes_key", "changes_family"),
        [
            ("search.max_concurrent=2", False, False),
            ("search.max_failures=9", False, False),
            ("search.tune.resources.cpus=2", False, False),
            ("search.tune.timeout=1h", False, False),
            ("search.score.value=0", False, False),
            ("search.sampler.kind=random", False, False),
            ("aside.value=9", False, False),
            ("search.trials=5", True, False),
            ("search.sampler=tpe", True, False),
            ("search.seed=4", True, False),
            ("search.tune.seed=4", True, False),
            ("search.score.value=3", True, False),
            ("search.space.tune.value.choice=[b, a]", True, False),
            ("search.objectives.score.value=minimize", True, False),
            ("search.constraints=[]", True, False),
            ("base.value=2", True, True),
        ],
    )
    def test_the_key_holds_what_shapes_the_search_and_the_family_no_parameter(
        self, empty, override, changes_key, changes_family
    ):
        text = TEXT.replace("sampler: random", "sampler: {kind: random}") if "sampler.kind" in override else TEXT
        key, family = self.keys(empty)
        changed_key, changed_family = self.keys(empty, text, override)
        assert (changed_key != key, changed_family != family) == (changes_key, changes_family)

    def test_seed_of_the_workflow_reaches_the_key(self, empty):
        assert self.keys(empty, TEXT, "seed=1")[0] != self.keys(empty)[0]

    def test_wiring_changes_the_family(self, empty):
        """Trials of other wiring must not be taken for trials of this."""
        other = TEXT.replace(
            "score: {stage: probe.echo, inputs: {inputs: tune}", "score: {stage: probe.echo, inputs: {inputs: base}"
        )
        more = TEXT.replace("      score: {", "      more: {stage: probe.echo}\n      score: {")
        stage = TEXT.replace("score: {stage: probe.echo", "score: {stage: probe.sleep")
        families = {self.keys(empty, text)[1] for text in (TEXT, other, more, stage)}
        assert len(families) == 4

    def test_neither_names_outside_nor_the_order_of_nodes_and_space_matter_but_that_of_objectives_does(self, empty):
        renamed = TEXT.replace("base", "start").replace("search", "search")
        lines = TEXT.splitlines(keepends=True)
        seconds, value = (
            lines.index("        tune.seconds: {uniform: [0.0, 0.5]}\n"),
            lines.index("        tune.value: {choice: [a, b]}\n"),
        )
        lines[seconds], lines[value] = lines[value], lines[seconds]
        assert self.keys(empty, renamed) == self.keys(empty, "".join(lines)) == self.keys(empty)
        swapped = TEXT.replace(
            "{score.value: maximize, tune.num_inputs: minimize}", "{tune.num_inputs: minimize, score.value: maximize}"
        )
        assert self.keys(empty, swapped)[0] != self.keys(empty)[0]


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


GRID = """
version: 1
name: grid
nodes:
  base: {stage: probe.echo, params: {value: 1}}
  search:
    sweep:
      sampler: grid
      objectives: {c.value: maximize}
      space:
        a.value: {choice: [1, 2]}
        b.value: {int: [1, 3]}
        c.value: {uniform: [0.1, 0.4], step: 0.1, when: {a.value: [2]}}
    nodes:
      a: {stage: probe.echo, inputs: {inputs: base}}
      b: {stage: probe.echo, inputs: {inputs: a}}
      c: {stage: probe.echo, inputs: {inputs: b}}
"""


class TestCount:
    def test_sharing_is_counted_by_key(self, empty):
        """a=1: 3 trials; a=2: 3 x 4 trials. Two nodes a, six b, and one c for each trial."""
        assert count_trials(sweep_of(empty, GRID)) == TrialCount(trials=15, nodes=45, distinct=2 + 6 + 15)

    @given(
        first=st.integers(1, 4),
        second=st.integers(1, 4),
        values=st.lists(st.integers(-9, 9), min_size=1, max_size=3, unique=True),
    )
    def test_the_count_is_that_of_all_trials_planned_one_by_one(self, empty, first, second, values):
        text = GRID.replace("{choice: [1, 2]}", f"{{choice: {json.dumps([*values, 'x'])}}}")
        text = text.replace("[1, 3]", f"[{first}, {first + second}]").replace("when: {a.value: [2]}", "when: {a.value: [x]}")
        sweep = sweep_of(empty, text)
        keys, trials = [], 0
        for a in (*values, "x"):
            for b in range(first, first + second + 1):
                for c in (0.1, 0.2, 0.3, 0.4) if a == "x" else (None,):
                    chosen = {"a.value": a, "b.value": b, "c.value": c}
                    keys += [n.key for n in plan_trial(sweep.checked, trial="t", values=chosen, outer=sweep.outer).values()]
                    trials += 1
        assert count_trials(sweep) == TrialCount(trials=trials, nodes=len(keys), distinct=len(set(keys)))

    def test_what_is_continuous_or_too_much_is_not_counted(self, empty):
        assert count_trials(sweep_of(empty)) is None
        assert count_trials(sweep_of(empty, GRID.replace("[1, 3]", "[1, 1000000000]"))) is None

    def test_ten_thousand_trials_are_counted_in_seconds(self, empty):
        import time

        start = time.process_time()
        count = count_trials(sweep_of(empty, GRID.replace("[1, 3]", "[1, 2000]")))
        assert count.trials == 10_000
        assert time.process_time() - start < 10


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

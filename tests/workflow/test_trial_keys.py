"""Keys of trials and of sweeps, and how many of them are told apart by key."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweep_plans import GRID, TEXT, VALUES, plan, run, sweep_of

from orchestrator.errors import PlanError
from orchestrator.workflow.count import TrialCount, count_trials
from orchestrator.workflow.statuses import with_status
from orchestrator.workflow.trials import plan_trial, trial_label


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

"""Sweeps in a file: what is refused, on which line and with which advice, and what is taken."""

from __future__ import annotations

import pytest
from toy_sweep import LINES, SOUND, checked, file, problems, refused

from orchestrator.report.problems import format_problem, format_problems

pytestmark = pytest.mark.usefixtures("sweep_toys")


def test_a_sound_sweep_is_taken_with_its_references_and_order():
    found = checked(file())
    assert found.order == ("base", "several", "search", "after")
    assert found.targets["search"] == ("base",)
    sweep = found.sweeps["search"]
    assert (sweep.order, sweep.refers_to, sweep.seed) == (("tune", "score"), ("base",), 0)


OTHERS = [
    ("objectives", "{scor.top1: maximize}", ('"scor.top1" does not name a metric', "did you mean score?")),
    ("objectives", "{score.top5: maximize}", ('reports no metric "top5"', "did you mean top1?")),
    ("objectives", "{score: maximize}", ('"node.metric"',)),
    ("objectives", "{base.top1: maximize}", ("does not name a metric of a node of the trial",)),
    ("objectives", "{score.top1: up}", ('"maximize" or "minimize"',)),
    ("constraints", "[{metric: score.top1}]", ("nothing to check",)),
    ("constraints", "[{metric: score.top1, min: 1, max: 0}]", ("min is above max",)),
    ("constraints", "[{metric: score.top1, max_drop: 0.1}]", ("compare with nothing", "add versus")),
    (
        "constraints",
        "[{metric: score.top1, min: 0.5, check: static}]",
        ("score.top1 cannot be decided before the trial runs", "one of score.gmacs", "remove check: static"),
    ),
    ("constraints", "[{metric: score.gmacs, max_ratio: 0.8}]", ("compare with nothing",)),
    ("constraints", "[{metric: score.gmacs, max: 1, versus: base.gmacs}]", ("versus has nothing to compare",)),
    ("constraints", "[{metric: score.gmacs, max_ratio: 0.8, versus: tune.gmacs}]", ("inside the sweep", "base.gmacs")),
    ("constraints", "[{metric: score.gmacs, max_ratio: 0.8, versus: search.gmacs}]", ("a sweep",)),
    ("constraints", "[{metric: score.gmacs, max_ratio: 0.8, versus: bse.gmacs}]", ("did you mean base?",)),
    ("constraints", "[{metric: score.gmacs, max_ratio: 0.8, versus: base.gmac}]", ("did you mean gmacs?",)),
    ("constraints", "[{metric: score.gmacs, max_ratio: 0.8, versus: base}]", ("versus does not name a node and a metric",)),
    ("constraints", "[{metric: score.gmacs, max_ratio: 0.8, versus: several.gmacs}]", ("foreach makes several",)),
    ("constraints", "[{metric: score.nothing, max: 1}]", ('reports no metric "nothing"',)),
    ("scheduler", "asha", ("by which metric", "2 objectives")),
    ("scheduler", "{kind: asha, metric: tune.loss}", ("no objective", "mode: minimize")),
    ("scheduler", "{kind: asha, metric: tuen.loss, mode: minimize}", ("did you mean tune?",)),
    ("select", "{metric: score.top5}", ("did you mean top1?",)),
    ("select", "{rule: best, metric: tune.top1}", ("no objective", "one of the objectives")),
    ("select", "{rule: smallest_within, tolerance: 0.1}", ("does not say of what",)),
    ("select", "{rule: knee, metric: score.top1}", ("metric means nothing to rule knee",)),
    ("select", "{rule: best, tolerance: 0.1}", ("tolerance means nothing to rule best",)),
    ("finalists", "{seeds: [1, 1]}", ("repeat a run", "value 1 of the list")),
    ("finalists", "{seeds: [3, 0]}", ("the workflow's own seed", "write 4")),
    ("sampler", "{kind: pbt, population: 4}", ("take", "carry")),
    ("sampler", "{kind: pbt, population: 4, carry: {tune.modle: tune}}", ("did you mean tune.model?",)),
    ("sampler", "{kind: pbt, population: 4, carry: {tune.model: tuen}}", ("did you mean tune?",)),
    ("sampler", "{kind: pbt, population: 4, carry: {tune.model: score}}", ("does not fit", "score makes table")),
    ("tune", "tune: {stage: toy.chnge, inputs: {model: base}}", ('node "search.tune"', "did you mean toy.change?")),
    ("tune", "tune: {stage: toy.change, inputs: {model: bse}}", ('node "search.tune"', "did you mean base?")),
    ("tune", "tune: {stage: toy.change, inputs: {modle: base}}", ("did you mean model?",)),
    ("tune", "tune: {stage: toy.change}", ('input "model" is missing', "base")),
    ("score", "score: {stage: toy.score, inputs: {model: tune, baseline: serch}}", ("did you mean search?",)),
    ("tune", "tune: {stage: toy.change, inputs: {model: several}}", ("foreach makes several", "a choice of the space")),
    ("tune", "tune: {stage: toy.change, inputs: {model: search.best.tune}}", ("that it is part of", "did you mean tune?")),
    ("tune", "tune: {stage: toy.change, inputs: {model: base}, params: {part: {size: 0}}}", ("search.tune", "at least 1")),
    ("tune", "tune: {stage: toy.change, inputs: {model: base}, timeout: 5}", ('"timeout"', "unit")),
    ("tune", "tune: {stage: toy.change, inputs: {model: base}, foreach: {low: [1]}}", ("list the values in the space",)),
    ("tune", "tune: {stage: toy.change, inputs: {model: base}, resources: {cpus: 1.5}}", ("search.tune", "whole number")),
    ("tune", "tune: {stage: toy.change, inputs: {model: base}, when: {metric: base.top5, min: 1}}", ("did you mean top1?",)),
    ("score", "score: {stage: toy.score, inputs: {model: tune}, needs: [nothing]}", ("no such node",)),
    ("after", "after: {stage: toy.change, inputs: {model: search}}", ("the whole sweep", "search.best.NODE")),
    ("after", "after: {stage: toy.change, inputs: {model: search.tune}}", ("write search.best.tune",)),
    ("after", "after: {stage: toy.change, inputs: {model: tune}}", ("write search.best.tune",)),
    ("after", "after: {stage: toy.change, inputs: {model: search.best}}", ("which node of the trial",)),
    ("after", "after: {stage: toy.change, inputs: {model: search.bset.tune}}", ("did you mean best?",)),
    ("after", "after: {stage: toy.change, inputs: {model: search.best.tuen}}", ("did you mean tune?",)),
    ("after", "after: {stage: toy.change, inputs: {model: search.best.tune.weights}}", ("names an output that there is not",)),
    ("after", "after: {stage: toy.change, inputs: {model: search.best.score}}", ("search.best.score (toy.score) makes table",)),
    ("after", "after: {stage: toy.change, inputs: {model: base}, when: {metric: search.best.score.top5, min: 1}}", ("top1?",)),
    ("after", "after: {stage: toy.change, inputs: {model: base}, when: {metric: search.best.score, min: 1}}", ("a metric",)),
    ("after", "after: {stage: toy.change, foreach: {model: base}}", ("one reference", "write inputs: {model: base}")),
    ("after", "after: {stage: toy.change, foreach: {model: search.best.tune}}", ("one reference",)),
    ("after", "after: {stage: toy.make, foreach: {name: abc}}", ("a list", "write name: [abc]")),
    ("after", "after: {stage: toy.make, needs: [serch]}", ("did you mean search?",)),
    ("after", "score: {stage: toy.make}", ("has the name of a node outside",)),
    ("more", "tune.low: {uniform: [0, 1]}", ("line",)),
]  # fmt: skip


@pytest.mark.parametrize(("field", "text", "words"), OTHERS, ids=[f"{field} {text}"[:90] for field, text, _ in OTHERS])
def test_what_cannot_be_meant_is_refused(field, text, words):
    found = refused(file(**{field: text}))
    assert found.line == (LINES["score"] if text.startswith("score: {stage: toy.make") else LINES[field])
    printed = format_problem(found)
    assert all(word in printed for word in words), printed
    assert found.suggestion or found.next_step


def test_all_problems_of_a_sweep_are_told_at_once_in_the_order_of_the_file():
    found = problems(
        file(
            objectives="{score.top5: maximize}",
            finalists="{seeds: [0]}",
            space="tune.low: {uniform: [0.5, 0.1]}",
            more="tune.nmae: {choice: [a]}",
            tune="tune: {stage: toy.change, inputs: {model: bse}}",
            after="after: {stage: toy.change, inputs: {model: search.best.tuen}}",
        )
    )
    assert [one.line for one in found] == [
        LINES[name] for name in ("objectives", "finalists", "space", "more", "tune", "after")
    ], format_problems(found)


def test_names_of_nodes_cycles_and_a_sweep_inside_a_sweep_are_told_inside_a_sweep_too():
    nodes = [
        SOUND["tune"],
        "a: {stage: toy.change, inputs: {model: b}}",
        "b: {stage: toy.change, inputs: {model: a}}",
        "'c d': {stage: toy.make}",
        "e: {sweep: {}, nodes: {}}",
    ]
    found = problems(file(tune="\n      ".join(nodes)))
    assert ["cycle" in found[0].what, "name of a node" in found[1].what, "inside a sweep" in found[2].what] == [True] * 3
    assert found[0].found == "a -> b -> a"


def test_a_parameter_is_searched_or_given_and_not_both():
    found = refused(file(tune="tune: {stage: toy.change, inputs: {model: base}, params: {low: 0.2}}"))
    assert "searched and given too" in found.what
    assert (found.line, found.expected) == (LINES["space"], "one of the two")


def test_kinds_are_checked_between_the_nodes_of_a_sweep():
    found = refused(file(score=f"{SOUND['score']}\n      last: {{stage: toy.change, inputs: {{model: score}}}}"))
    assert "score (toy.score) makes table" in found.found
    assert "tune" in found.suggestion


def test_a_cycle_through_a_sweep_is_told_at_one_of_its_references():
    found = refused(file(tune="tune: {stage: toy.change, inputs: {model: after}}"))
    assert found.found in {"search -> after -> search", "after -> search -> after"}


def test_a_grid_needs_points_and_no_number_of_trials():
    found = refused(file(sampler="grid").replace("trials: 8", "max_failures: 1"))
    assert "continuous" in found.what
    assert found.line == LINES["space"]
    steps = file(sampler="grid", space="tune.low: {uniform: [0.1, 0.5], step: 0.1}")
    checked(steps.replace("      trials: 8\n", ""))
    assert "how many settings" in refused(file().replace("trials: 8", "max_failures: 1")).what


def test_population_based_training_counts_in_generations():
    pbt = file(sampler="{kind: pbt, population: 3, carry: {tune.model: tune}}")
    found = refused(pbt)
    assert "multiple of 3" in found.expected
    assert found.suggestion == "write trials: 9"
    checked(pbt.replace("trials: 8", "trials: 9"))


def test_early_stopping_takes_the_one_objective_there_is():
    checked(file(scheduler="asha", objectives="{score.top1: maximize}"))


@pytest.mark.parametrize(
    "after",
    [
        "after: {stage: toy.change, inputs: {model: search.best.tune.output}}",
        "after: {stage: toy.change, foreach: {model: search.front.tune}}",
        "after: {stage: toy.change, inputs: {model: search.front.tune}}",
        "after: {stage: toy.change, foreach: {model: [search.best.tune, base]}}",
        "after: {stage: toy.compare, inputs: {models: [search.front.tune, base]}}",
        "after: {stage: toy.make, needs: [search, search.best.tune], when: {metric: search.best.score.top1, min: 0}}",
    ],
)
def test_a_sweep_can_be_referred_to(after):
    found = checked(file(after=after))
    assert found.targets["after"][0] == "search"
    node = found.loaded.workflow.nodes["after"]
    assert not any(isinstance(values, str) for values in node.foreach.values())
    assert ".output" not in str(node)


def test_a_sweep_may_refer_to_the_best_of_another_but_not_to_its_front():
    second = file().partition("  search:\n")[2].partition("  after:")[0].replace("model: base}}", "model: search.best.tune}}")
    text = file(after="other:\n" + second)
    found = checked(text)
    assert found.sweeps["other"].refers_to == ("base", "search.best.tune")
    assert set(found.targets["other"]) == {"search", "base"}
    assert "search.best.tune" in refused(text.replace("search.best.tune", "search.front.tune")).suggestion


class TestOverrides:
    @pytest.mark.parametrize(
        ("override", "look", "value"),
        [
            ("search.trials=4", lambda sweep: sweep.sweep.trials, 4),
            ("search.sweep.trials=4", lambda sweep: sweep.sweep.trials, 4),
            ("search.sampler=tpe", lambda sweep: sweep.sweep.sampler.kind, "tpe"),
            ("search.select.rule=knee", lambda sweep: sweep.sweep.select.rule, "knee"),
            ("search.tune.part.size=5", lambda sweep: sweep.nodes["tune"].params, {"part": {"size": 5}}),
            ("search.nodes.tune.part.size=5", lambda sweep: sweep.nodes["tune"].params, {"part": {"size": 5}}),
            ("search.tune.resources.cpus=2", lambda sweep: sweep.nodes["tune"].resources.cpus, 2),
            ("search.tune.seed=7", lambda sweep: sweep.nodes["tune"].seed, 7),
            ("search.space.tune.name.choice=[c]", lambda sweep: sweep.sweep.space["tune.name"].choice, ("c",)),
            ("search.space.tune.high={choice: [2]}", lambda sweep: sweep.sweep.space["tune.high"].choice, (2,)),
            ("search.objectives.score.top1=minimize", lambda sweep: sweep.sweep.objectives["score.top1"], "minimize"),
        ],
    )
    def test_a_value_goes_where_it_belongs(self, override, look, value):
        sweep = checked(file(), overrides=[override]).loaded.workflow.sweeps["search"]
        assert look(sweep) == value

    @pytest.mark.parametrize(
        ("override", "words"),
        [
            ("search.trails=4", "did you mean trials?"),
            ("search.trials=many", "a whole number"),
            ("search.tuen.low=1", "did you mean tune?"),
            ("search=4", "tune, score"),
            ("search.needs=[base]", "nothing that can be set"),
            ("search.tune.stage=toy.make", 'node "search.tune" shapes the workflow'),
            ("search.tune.inputs.model=x", "shapes the workflow"),
            ("search.tune.nmae=x", "did you mean name?"),
            ("search.nodes=3", "tune, score"),
            ("search.space.tune.low={uniform: [1, 0]}", "bounds in reverse"),
        ],
    )
    def test_what_cannot_be_set_is_told_at_its_set(self, override, words):
        found = refused(file(), overrides=[override])
        assert found.place() == f"--set {override}"
        assert words in format_problem(found)

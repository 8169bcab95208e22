"""The space of a sweep: what is refused, on which line and with which advice, and what is taken."""

from __future__ import annotations

import pytest
from toy_sweep import LINES, checked, file, problems, refused

from orchestrator.report.problems import format_problem

pytestmark = pytest.mark.usefixtures("sweep_toys")


SPACE = [
    ("tuen.low: {uniform: [0, 1]}", ("does not name a parameter", "tune, score", "did you mean tune.low?")),
    ("low: {uniform: [0, 1]}", ('"node.parameter"', "tune, score")),
    ("base.low: {uniform: [0, 1]}", ('move node "base" into the sweep',)),
    ("tune.lwo: {uniform: [0, 1]}", ("no parameter of stage toy.change", "did you mean tune.low?")),
    ("tune.part.sice: {int: [1, 2]}", ("did you mean tune.part.size?",)),
    ("tune.model: {choice: [base]}", ("model is an input",)),
    ("tune.low: {uniform: [0.5, 0.1]}", ("bounds in reverse", "uniform: [0.1, 0.5]")),
    ("tune.low: {uniform: [0.5, 0.5]}", ("without width", "under params")),
    ("tune.low: {loguniform: [0, 0.5]}", ("logarithm", "above 0")),
    ("tune.low: {uniform: [0.1, 0.5], step: 1}", ("step larger than its range", "at most 0.4")),
    ("tune.low: {loguniform: [0.1, 0.5], step: 0.1}", ("step on a logarithmic scale",)),
    ("tune.part.size: {int: [1, 9], step: 1.5}", ("whole numbers", "a whole step")),
    ("tune.low: {uniform: [0.1, 0.5], choice: [0.2]}", ("more than one distribution", "keep choice")),
    ("tune.low: {}", ("no distribution", "exactly one of choice, uniform, loguniform, int")),
    ("tune.low: {choice: []}", ("among nothing",)),
    ("tune.low: {choice: [0.1, 0.1]}", ("0.1 twice",)),
    ("tune.low: {choice: [0.1], step: 1}", ("has no step",)),
    ("tune.low: [0.1, 0.2]", ("{choice: [0.1, 0.2]}",)),
    ("tune.low: {uniform: [0.1]}", ("at least 2 values",)),
    ("tune.low: {choice: [0.1, -1]}", ("value 2 of", '"-1"', "at least 0")),
    ("tune.low: {uniform: [-1, 0.5]}", ("the lower bound of", "at least 0")),
    ("tune.high: {uniform: [2, 11]}", ("the upper bound of", "at most 10")),
    ("tune.part.size: {int: [0, 3]}", ("the lower bound of", "at least 1")),
    ("tune.high: {choice: [0.5, abc]}", ("value 2 of", "a number")),
    ("tune.low: {choice: [0.1, 1.5]}", ("low is 1.5 and high 1", "fit together")),
    ("tune.low: {uniform: [0.1, 1.5]}", ("low is 1.5 and high 1", "fit together")),
    ("tune.free.x: {choice: [1, y]}", ("value 2 of", "a whole number")),
    ("tune.low: {uniform: [0.1, 0.5], when: {tune.nmae: [a]}}", ("no choice of this space", "did you mean tune.name?")),
    ("tune.low: {uniform: [0.1, 0.5], when: {tune.name: [c]}}", ('a value that "tune.name" does not have', "a, b")),
    ("tune.low: {uniform: [0.1, 0.5], when: {tune.name: []}}", ("searched for no value",)),
    ("tune.low: {choice: [0.1], when: {tune.low: [0.1]}}", ("waits for itself",)),
]


@pytest.mark.parametrize(("space", "words"), SPACE, ids=[space for space, _ in SPACE])
def test_a_space_that_cannot_be_meant_is_refused_on_its_line(space, words):
    found = refused(file(space=space))
    assert found.line == LINES["space"]
    printed = format_problem(found)
    assert all(word in printed for word in words), printed


def test_circular_conditions_are_told():
    low = "tune.low: {choice: [0.1, 0.2], when: {tune.name: [a]}}"
    found = problems(file(space=low, more="tune.name: {choice: [a, b], when: {tune.low: [0.1]}}"))
    assert all("waits for itself" in one.what for one in found)
    assert [one.line for one in found] == [LINES["space"], LINES["more"]]


def test_combinations_of_choices_that_do_not_fit_are_found():
    """Each value alone is fine; the trial that has both would fail hours later."""
    found = refused(file(space="tune.low: {choice: [0.1, 0.6]}", more="tune.high: {choice: [0.5, 2]}"))
    assert "low is 0.6 and high 0.5" in found.what
    assert found.line == LINES["space"]
    checked(
        file(
            space="tune.low: {choice: [0.1, 0.6]}",
            more="tune.high: {choice: [0.7, 2], when: {tune.low: [0.6]}}",
        )
    )


def test_a_corner_of_two_ranges_that_does_not_fit_is_left_to_the_trial():
    """A range that another one bounds is a space worth searching; only values that fit nothing are mistakes."""
    checked(file(space="tune.low: {uniform: [0, 0.6]}", more="tune.high: {uniform: [0.3, 0.8]}"))
    found = refused(file(space="tune.low: {uniform: [0, 0.9]}", more="tune.high: {uniform: [0.3, 0.8]}"))
    assert "low is 0.9" in found.what


def test_a_required_parameter_may_come_from_the_space_and_is_missed_otherwise():
    needy = "score: {stage: toy.score, inputs: {model: tune}}\n      needy: {stage: toy.needy}"
    checked(file(score=needy, more="needy.must: {int: [1, 3]}"))
    assert '"must" is missing' in refused(file(score=needy)).what
    found = refused(file(score=needy, more="needy.must: {int: [3, 1]}"))
    assert "bounds in reverse" in found.what


def test_a_parameter_under_a_condition_may_have_a_value_for_when_it_does_not_hold():
    checked(
        file(
            space="tune.low: {uniform: [0.1, 0.5], when: {tune.name: [b]}}",
            tune="tune: {stage: toy.change, inputs: {model: base}, params: {low: 0.7}}",
        )
    )


def test_thousands_of_choices_are_checked_in_a_second():
    import time

    values = ", ".join(str(index / 10_000) for index in range(3000))
    start = time.process_time()
    checked(file(space=f"tune.low: {{choice: [{values}]}}"))
    assert time.process_time() - start < 2

"""Population based training: who goes on, who is replaced by whom, and with which settings."""

from __future__ import annotations

import pytest

from orchestrator.sweeps.searcher import Suggestion, generator, make_searcher
from orchestrator.workflow.sweep_result import TrialRecord
from orchestrator.workflow.sweep_spec import Sweep

SPACE = {
    "tune.lr": {"loguniform": (1e-4, 1e-1)},
    "tune.warmup": {"int": (0, 10)},
    "tune.schedule": {"choice": ("constant", "cosine", "linear")},
    "tune.floor": {"uniform": (0, 1), "step": 0.1, "when": {"tune.schedule": ("cosine",)}},
}


def sweep_of(**sampler) -> Sweep:
    return Sweep(
        space=SPACE,
        objectives={"score.loss": "minimize"},
        trials=40,
        sampler={"kind": "pbt", "population": 8, "quantile": 0.25, **sampler},
        constraints=({"metric": "score.bytes", "max": 100},),
    )


def told(number: int, suggestion: Suggestion, loss: float | None, *, state: str = "done", size: float = 50) -> TrialRecord:
    metrics = {"score.loss": loss, "score.bytes": size}
    return TrialRecord(number=number, values=suggestion.values, state=state, metrics=metrics, parent=suggestion.parent)


def first_generation(searcher, losses, **more) -> list[Suggestion]:
    found = [searcher.suggest(number) for number in range(len(losses))]
    for number, loss in enumerate(losses):
        searcher.tell(told(number, found[number], loss, **more))
    return found


LOSSES = (0.5, 0.1, 0.9, 0.4, 0.3, 0.8, 0.2, 0.6)


def test_the_worst_are_replaced_by_copies_of_the_best_and_the_others_go_on_unchanged():
    searcher = make_searcher(sweep_of(), seed=1)
    before = first_generation(searcher, LOSSES)
    after = [searcher.suggest(number) for number in range(8, 16)]
    for member in (0, 1, 3, 4, 6, 7):
        assert after[member] == Suggestion(values=before[member].values, parent=member)
    for member in (2, 5):
        assert after[member].parent in {1, 6}
        assert after[member].values != before[after[member].parent].values


def test_a_generation_waits_for_all_of_the_one_before():
    searcher = make_searcher(sweep_of(), seed=1)
    assert searcher.is_ready(7)
    found = [searcher.suggest(number) for number in range(8)]
    for number in range(7):
        searcher.tell(told(number, found[number], 0.5))
        assert not searcher.is_ready(8)
    searcher.tell(told(7, found[7], None, state="failed"))
    assert searcher.is_ready(8)
    assert searcher.is_ready(15)
    assert not searcher.is_ready(16)


def test_a_member_without_a_result_is_replaced_too():
    """There is no artifact that it could go on from."""
    searcher = make_searcher(sweep_of(quantile=0.125), seed=1)
    found = [searcher.suggest(number) for number in range(8)]
    for number in range(8):
        is_done = number in {0, 1, 2}
        searcher.tell(told(number, found[number], LOSSES[number] if is_done else None, state="done" if is_done else "stopped"))
    assert [searcher.suggest(number).parent for number in range(8, 16)][3:] == [1] * 5


def test_the_search_ends_where_a_whole_generation_has_failed():
    searcher = make_searcher(sweep_of(), seed=1)
    first_generation(searcher, [None] * 8, state="failed")
    assert searcher.suggest(8) is None


def test_members_that_break_a_constraint_are_the_worst():
    searcher = make_searcher(sweep_of(), seed=1)
    found = [searcher.suggest(number) for number in range(8)]
    for number in range(8):
        searcher.tell(told(number, found[number], LOSSES[number], size=500 if number in {1, 6} else 50))
    parents = [searcher.suggest(number).parent for number in range(8, 16)]
    assert parents[1] in {3, 4}
    assert parents[6] in {3, 4}


def test_explored_settings_are_neighbours_within_the_space():
    searcher = make_searcher(sweep_of(resample_probability=0), seed=1)
    values = {"tune.lr": 0.01, "tune.warmup": 5, "tune.schedule": "cosine", "tune.floor": 0.5}
    found = [searcher.explore(values, generator(seed)) for seed in range(200)]
    assert {point["tune.lr"] for point in found} == {0.008, 0.012}
    assert {point["tune.warmup"] for point in found} == {4, 6}
    assert {point["tune.schedule"] for point in found} == {"constant", "linear"}
    assert not any("tune.floor" in point for point in found)
    values = {"tune.lr": 0.1, "tune.warmup": 5, "tune.schedule": "linear"}
    edge = [searcher.explore(values, generator(seed)) for seed in range(200)]
    assert {point["tune.lr"] for point in edge} == {0.08, 0.1}
    assert {point["tune.schedule"] for point in edge} == {"cosine", "linear"}
    assert {point["tune.floor"] for point in edge if point["tune.schedule"] == "cosine"} > {0.1, 0.9}
    assert all(searcher.space.contains(point) for point in [*found, *edge])


def test_with_resampling_only_every_setting_is_drawn_anew():
    searcher = make_searcher(sweep_of(resample_probability=1), seed=1)
    values = {"tune.lr": 0.01, "tune.warmup": 5, "tune.schedule": "linear"}
    found = {searcher.explore(values, generator(seed))["tune.warmup"] for seed in range(300)}
    assert found == set(range(11))


@pytest.mark.parametrize("killed_after", range(0, 24, 3))
def test_a_killed_search_goes_on_with_the_same_generations(killed_after):
    def run(searcher, records, up_to):
        for number in range(len(records), up_to):
            suggestion = searcher.suggest(number)
            records.append(told(number, suggestion, suggestion.values["tune.lr"] + number / 100))
            searcher.tell(records[-1])
        return records

    whole = run(make_searcher(sweep_of(), seed=4), [], 24)
    again = make_searcher(sweep_of(), seed=4)
    taken = again.warm_start(list(reversed(whole[:killed_after])))
    assert taken == whole[:killed_after]
    assert run(again, taken, 24) == whole


def test_records_of_another_population_do_not_count():
    """Their parents are other trials."""
    searcher = make_searcher(sweep_of(), seed=1)
    found = first_generation(searcher, LOSSES)
    records = [told(number, found[number], LOSSES[number]) for number in range(8)]
    assert make_searcher(sweep_of(), seed=2).warm_start(records) == []
    assert make_searcher(sweep_of(population=4), seed=1).warm_start(records) == records[:4]

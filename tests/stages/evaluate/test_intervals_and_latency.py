"""Intervals of accuracies against published ones, and timings with a clock that the test moves."""

from __future__ import annotations

import pytest

from stages.evaluate.latency import measure_interleaved, paired_ratio
from stages.evaluate.statistics import paired_drop, wilson_interval


class TestStatistics:
    def test_wilson_intervals_are_the_published_ones(self):
        """Newcombe 1998, Stat. Med. 17, 857-872, table I: 81/263 gives 0.2553-0.3662, 0/20 gives 0-0.1611."""
        assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
        assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)

    @pytest.mark.parametrize(("counts", "expected"), [((14, 5, 0, 22), (0.011, 0.226)), ((1, 1, 7, 12), (-0.507, -0.026))])
    def test_paired_intervals_are_the_published_ones(self, counts, expected):
        """Altman et al. 2000, Statistics with Confidence, table 6.2; Fagerland et al. 2014, airway hyper-responsiveness."""
        both, first, second, _ = counts
        _, low, high = paired_drop(both_right=both, only_baseline=first, only_model=second, total=sum(counts))
        assert (low, high) == pytest.approx(expected, abs=5e-4)

    def test_a_paired_interval_is_narrower_the_fewer_images_differ(self):
        drop, low, high = paired_drop(both_right=380, only_baseline=12, only_model=4, total=400)
        assert drop == 0.02
        assert 0 < high - 0.02 < 0.025
        _, wide_low, wide_high = paired_drop(both_right=370, only_baseline=22, only_model=14, total=400)
        assert wide_low < low < high < wide_high

    @pytest.mark.parametrize("both_right", [0, 225, 446, 450])
    def test_two_models_that_no_image_tells_apart_may_still_differ(self, both_right):
        drop, low, high = paired_drop(both_right=both_right, only_baseline=0, only_model=0, total=450)
        assert drop == 0
        assert high == pytest.approx(-low)
        assert 1e-4 < high < 0.02

    def test_model_and_baseline_changed_round_mirror_the_interval(self):
        drop, low, high = paired_drop(both_right=40, only_baseline=9, only_model=2, total=60)
        mirrored = paired_drop(both_right=40, only_baseline=2, only_model=9, total=60)
        assert mirrored == pytest.approx((-drop, -high, -low))


class TestLatency:
    def test_a_slow_second_hits_both_and_cancels_in_the_ratio(self):
        """The machine gets three times slower half-way; the ratio of two runners that take 1 ms and 2 ms stays 2."""
        now = [0.0]

        def runner(duration):
            def call():
                now[0] += duration * (3 if now[0] > 1.5 else 1)

            return call

        found = measure_interleaved({"a": runner(0.001), "b": runner(0.002)}, seconds=3.0, clock=lambda: now[0])
        assert found["a"].high_ms / found["a"].low_ms > 2
        assert paired_ratio(found["b"], found["a"]) == pytest.approx(2.0)

    def test_the_time_is_kept(self):
        now = [0.0]

        def call():
            now[0] += 0.01

        measure_interleaved({"a": call, "b": call}, seconds=2.0, clock=lambda: now[0])
        assert 2.0 <= now[0] < 2.2

    def test_slow_runners_are_timed_five_times_at_least(self):
        now = [0.0]

        def call():
            now[0] += 10.0

        assert measure_interleaved({"a": call}, seconds=1.0, clock=lambda: now[0])["a"].num_samples == 5

"""Durations and sizes as written in a workflow file."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.workflow.units import parse_duration_s, parse_size_bytes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("1h30m", 5400),
        ("250ms", 0.25),
        ("1.5h", 5400),
        ("2d", 172_800),
        ("1m30s500ms", 90.5),
        ("0s", 0),
        ("5m", 300),
    ],
)
def test_durations_add_their_parts(text, seconds):
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", [10, 1.5, None, True, "", "10", "s", "10 s", "1h 30m", "-5s", "5S", "1e3s", "5fortnights", "٣s", ["5s"]]
)
def test_a_duration_without_a_clear_unit_is_refused(value):
    with pytest.raises(ValueError, match="duration with its unit"):
        parse_duration_s(value)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("15MiB", 15 * 2**20),
        ("2GB", 2 * 10**9),
        ("1.5KiB", 1536),
        ("100B", 100),
        ("4 GiB", 4 * 2**30),
        ("1TiB", 2**40),
        ("3KB", 3000),
    ],
)
def test_sizes_know_thousands_from_1024(text, size):
    assert parse_size_bytes(text) == size


@pytest.mark.parametrize(
    "value", [4096, 1.5, None, True, "", "10", "GiB", "-1GiB", "4gib", "4 gigs", "4  GiB", "1e3MB", "٣MB", {}]
)
def test_a_size_without_a_clear_unit_is_refused(value):
    with pytest.raises(ValueError, match="size with its unit"):
        parse_size_bytes(value)


@pytest.mark.parametrize("parse", [parse_duration_s, parse_size_bytes])
def test_megabytes_of_digits_are_refused_at_once(parse):
    """A number of a million digits must neither overflow nor take minutes."""
    for text in ("9" * 2**20, "9" * 2**20 + "s", "9" * 400 + "GiB", "1s" * 2**19):
        with pytest.raises(ValueError, match="with its unit"):
            parse(text)


@given(st.text())
def test_any_text_is_a_number_or_a_value_error(text):
    for parse in (parse_duration_s, parse_size_bytes):
        with contextlib.suppress(ValueError):
            assert parse(text) >= 0

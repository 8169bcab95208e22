"""Words and numbers for people: durations, sizes, tables."""

from __future__ import annotations

import pytest

from orchestrator.report.text import Column, Style, format_bytes, format_seconds, format_table, format_value, printable


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00s"),
        (0.42, "0.42s"),
        (12.34, "12.3s"),
        (59.96, "1m00s"),
        (185, "3m05s"),
        (3599.6, "1h00m"),
        (11520, "3h12m"),
        (187_200, "2d04h"),
    ],
)
def test_durations_have_their_units(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (23 * 2**20, "23.0 MiB"),
        (3 * 2**40, "3.0 TiB"),
    ],
)
def test_sizes_are_in_powers_of_1024(size: int, text: str) -> None:
    assert format_bytes(size) == text


def test_values_are_written_as_in_a_workflow_file() -> None:
    assert format_value({"a": [1, 0.1, True, None], "b": "2:4"}) == "{a: [1, 0.1, true, none], b: 2:4}"


def test_control_characters_cannot_reach_a_terminal() -> None:
    assert printable("a\x1b]0;title\x07b\nc") == "a\\x1b]0;title\\x07b\\nc"


def test_only_the_last_column_gives_way() -> None:
    columns = [Column("NAME"), Column("N", right=True), Column("WHY")]
    rows = [["a-long-name", "5", "because of a long story"], ["b", "12", "short"]]
    lines = format_table(columns, rows, style=Style(), width=32)
    assert lines == [
        "NAME          N  WHY",
        "a-long-name   5  because of a...",
        "b            12  short",
    ]
    assert format_table(columns, rows, style=Style(), width=None)[1].endswith("because of a long story")
    wrapped = format_table(columns, rows, style=Style(), width=32, last_lines=2)
    assert wrapped[1:3] == ["a-long-name   5  because of a", "                 long story"]


def test_colours_change_no_column() -> None:
    columns = [Column("STATUS", painted=True), Column("NODE")]
    rows = [["HIT", "a"], ["CANCEL", "b"]]
    coloured = format_table(columns, rows, style=Style(is_coloured=True), width=None)
    assert "\x1b[36mHIT   \x1b[0m  a" in coloured


def test_colours_of_others_are_left_out_and_other_control_characters_shown() -> None:
    """Ray paints its errors; what it painted is told, the paint is not."""
    assert printable("\x1b[36mray::task()\x1b[39m failed\x07") == "ray::task() failed\\x07"

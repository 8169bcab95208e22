"""Words, numbers and columns as people read them in a terminal: durations, sizes, status words, plain tables.

Knows no run, no plan and no library: what is fast enough for the first line of output stands here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WORD_WIDTH = 6

_COLOURS = {
    "HIT": "36", "RUN": "33", "SHARED": "36", "WAIT": "2", "DONE": "32", "SKIP": "2", "RETRY": "33", "FAIL": "31",
    "CANCEL": "35", "STOP": "2", "STRUCK": "2", "SEARCH": "33", "drift": "33", "total": "1", "error": "31", "warn": "33",
    "OK": "32", "WARN": "33", "dim": "2", "bold": "1",
}  # fmt: skip

_COLOUR_CODE = re.compile(r"\x1b\[[0-9;]*m")

_STATE_WORDS = {
    "hit": "HIT", "planned": "WAIT", "running": "RUN", "waiting": "WAIT", "done": "DONE", "failed": "FAIL",
    "skipped": "SKIP", "blocked": "SKIP", "cancelled": "CANCEL", "interrupted": "CANCEL", "retrying": "RETRY",
    "stopped": "STOP", "infeasible": "STRUCK", "searching": "SEARCH", "settled": "DONE",
}  # fmt: skip


@dataclass(frozen=True)
class Style:
    """Colours, or none. Colour never says what the word beside it does not."""

    is_coloured: bool = False

    def paint(self, text: str, name: str) -> str:
        """`text` in the colour of a status word or of a role (dim, bold); unchanged without colours."""
        code = _COLOURS.get(name)
        return f"\x1b[{code}m{text}\x1b[0m" if self.is_coloured and code else text

    def word(self, word: str) -> str:
        """A status word in its column."""
        return self.paint(f"{word:<{WORD_WIDTH}}", word)


def state_word(state: str) -> str:
    """The status word of a node's, a trial's or a sweep's state in the ledger."""
    return _STATE_WORDS.get(state, state.upper()[:WORD_WIDTH])


def format_seconds(seconds: float) -> str:
    """0.42s, 12.3s, 3m05s, 3h12m, 2d04h."""
    if seconds < 1:
        return f"{seconds:.2f}s"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02d}m"
    return f"{hours // 24}d{hours % 24:02d}h"


def format_bytes(size_bytes: float) -> str:
    """512 B, 1.4 KiB, 23.0 MiB."""
    if size_bytes < 1024:
        return f"{size_bytes:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size_bytes /= 1024
        if size_bytes < 1023.95:
            return f"{size_bytes:.1f} {unit}"
    return f"{size_bytes / 1024:.1f} TiB"


def format_count(number: float) -> str:
    """1,234,567 for whole numbers; at most four significant digits for others."""
    return f"{int(number):,}" if float(number).is_integer() else f"{number:.4g}"


def format_figure(value: Any) -> str:
    """A metric in a table: at most five significant digits, thousands set apart, a dash for what is missing."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "-" if value is None else format_value(value)
    return f"{value:,}" if isinstance(value, int) else format_value(float(f"{value:.5g}"))


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Each "node.name" without its node where that leaves it apart from the others.

    Example:
        >>> short_names(["tune.lr", "tune.loss", "base.loss"])
        {'tune.lr': 'lr', 'tune.loss': 'tune.loss', 'base.loss': 'base.loss'}
    """
    names = list(names)
    short = [name.partition(".")[2] or name for name in names]
    return {name: each if short.count(each) == 1 else name for name, each in zip(names, short, strict=True)}


def format_value(value: Any) -> str:
    """A setting or a metric on one line."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {format_value(item)}" for name, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(format_value(item) for item in value) + "]"
    return printable(str(value))


def printable(text: str) -> str:
    """`text` on one line, without colours and control characters."""
    if text.isprintable():
        return text
    text = without_colours(text)
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def without_colours(text: str) -> str:
    """`text` without a terminal's codes for colours."""
    return _COLOUR_CODE.sub("", text)


def format_time(stamp: str) -> str:
    """2026-11-02 14:02 of an ISO time stamp."""
    return stamp[:16].replace("T", " ")


def shorten(text: str, width: int) -> str:
    """`text` in at most `width` columns."""
    return text if len(text) <= width else text[: max(1, width - 3)] + "..."


def plural(number: int, noun: str) -> str:
    """1 node, 2 nodes."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class Column:
    """One column of a table; `painted` columns hold words that name their own colour."""

    title: str
    right: bool = False
    painted: bool = False


def format_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], *, style: Style, width: int | None, last_lines: int = 1
) -> list[str]:
    """Aligned lines with a header. Only the last column gives way to `width` (None: nothing does): names stay whole.

    What does not fit goes on below in the same column, over at most `last_lines` lines, and is cut there.
    """
    widths = [max([len(column.title), *(len(row[index]) for row in rows)]) for index, column in enumerate(columns)]
    before_last = sum(widths[:-1]) + 2 * (len(columns) - 1)
    room = max(12, width - before_last) if width is not None else None

    def line(cells: Sequence[str], *, is_header: bool = False) -> str:
        parts = []
        for index, (column, cell) in enumerate(zip(columns, cells, strict=True)):
            is_last = index == len(columns) - 1
            padded = f"{cell:>{widths[index]}}" if column.right else cell if is_last else f"{cell:<{widths[index]}}"
            parts.append(style.paint(padded, cell) if column.painted and not is_header else padded)
        joined = "  ".join(parts).rstrip()
        return style.paint(joined, "bold") if is_header else joined

    lines = [line([column.title for column in columns], is_header=True)]
    for row in rows:
        first, *more = _in_lines(row[-1], room, last_lines)
        lines.append(line([*row[:-1], first]))
        lines += [" " * before_last + text for text in more]
    return lines


def _in_lines(text: str, room: int | None, number: int) -> list[str]:
    if room is None or len(text) <= room:
        return [text]
    if number == 1:
        return [shorten(text, room)]
    import textwrap

    lines = textwrap.wrap(text, room)
    return lines if len(lines) <= number else [*lines[: number - 1], shorten(" ".join(lines[number - 1 :]), room)]

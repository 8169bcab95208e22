"""What an unquoted word of YAML 1.2 stands for: the core schema's table, and nothing of YAML beside it.

`2:4`, `on`, `yes`, dates and `1_000` are text, `012` is 12, `0o17` is 15, `1e-4` is a float.
"""

from __future__ import annotations

import math
import re
from typing import Any

TOO_LONG: Any = object()
"""Stands for a whole number with more digits than are worth converting."""

_CONSTANTS = {"": None, "~": None} | {
    spelling: value
    for word, value in (("null", None), ("true", True), ("false", False))
    for spelling in (word, word.capitalize(), word.upper())
}
_INT = re.compile(r"[-+]?[0-9]+")
_BASED_INT = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)")
_NAN = frozenset({".nan", ".NaN", ".NAN"})
_MAYBE_NUMBER = frozenset("+-.0123456789")


def plain_value(text: str) -> Any:
    """Value of an unquoted scalar; text that matches no rule is text.

    Example:
        >>> [plain_value(text) for text in ("2:4", "on", "012", "0o17", "1e-4", "~")]
        ['2:4', 'on', 12, 15, 0.0001, None]
    """
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] not in _MAYBE_NUMBER:
        return text
    if _INT.fullmatch(text) or _BASED_INT.fullmatch(text):
        return int(text, 0 if text[1:2] in {"o", "x"} else 10) if len(text) <= 64 else TOO_LONG
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITE.fullmatch(text):
        return -math.inf if text[0] == "-" else math.inf
    return math.nan if text in _NAN else text

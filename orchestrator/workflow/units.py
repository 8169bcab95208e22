"""Durations ("10m", "1h30m") and sizes ("15MiB") as people write them in a workflow file."""

from __future__ import annotations

import re
from typing import Any

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_PART = r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)"
_DURATION = re.compile(f"(?:{_PART}){{1,8}}")
_SIZE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?) ?([KMGT]i?B|B)")


def parse_duration_s(value: Any) -> float:
    """Seconds of a duration such as "90s" or "1h30m"; numbers are refused, since they do not say their unit."""
    if not isinstance(value, str) or _DURATION.fullmatch(value) is None:
        raise ValueError("expected a duration with its unit (ms, s, m, h, d), for example 90s or 1h30m")
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(_PART, value))


def parse_size_bytes(value: Any) -> int:
    """Bytes of a size such as "15MiB" or "2GB"; numbers are refused, since they do not say their unit."""
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected a size with its unit (B, KB, MB, GB, TB, KiB, MiB, GiB, TiB), for example 15MiB")
    return int(float(match[1]) * _BYTES[match[2]])

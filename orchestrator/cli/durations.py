"""Durations as a flag's value: 90s, 2h."""

from __future__ import annotations

from orchestrator.errors import UsageError


def parse_duration(flag: str, text: str) -> float:
    """Seconds of `text`; UsageError that names the flag."""
    from orchestrator.workflow.units import parse_duration_s

    try:
        return parse_duration_s(text)
    except ValueError as error:
        raise UsageError(f'{flag} "{text}": {error}', next_step=f"{flag} 90s") from error

"""What a run has spent so far: amounts held, times the seconds for which attempts held them. Knows no node's meaning."""

from __future__ import annotations

from orchestrator.workflow.budget import Hours
from orchestrator.workflow.spec import Resources


class Meter:
    """Counts what runs; asking what was spent costs the same however many run."""

    def __init__(self, before: Hours, *, now_s: float) -> None:
        self._held: dict[str, Resources] = {}
        self._rate = Hours()  # a second of what runs now, in hours
        self._spent = before
        self._at_s = now_s

    def start(self, label: str, resources: Resources, now_s: float) -> None:
        """An attempt holds this from now on."""
        self._advance(now_s)
        self._held[label] = resources
        self._rate = self._rate + hours_of(resources, 1.0)

    def stop(self, label: str, now_s: float) -> None:
        """The attempt has ended."""
        self._advance(now_s)
        self._rate = self._rate + hours_of(self._held.pop(label), -1.0) if len(self._held) > 1 else Hours()
        self._held.pop(label, None)  # the last one: exactly nothing is held, whatever sums of fractions have left

    def spent(self, now_s: float) -> Hours:
        """What was spent until now, by what ended and by what runs."""
        self._advance(now_s)
        return self._spent

    def _advance(self, now_s: float) -> None:
        self._spent = self._spent + self._rate * (now_s - self._at_s)
        self._at_s = now_s


def hours_of(resources: Resources, seconds: float) -> Hours:
    """What holding the resources for some seconds comes to."""
    hours = resources.workers * seconds / 3600
    return Hours(resources.gpus * hours, resources.cpus * hours)

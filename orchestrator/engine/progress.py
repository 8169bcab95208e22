"""What running nodes report at the end of each epoch, read from the ledger as it grows: what early stopping rests on.

Knows no scheduler: it is given labels and the folders where their progress is written (`Scheduler.folder_of`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.store.ledger import Ledger, node_folder


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """One epoch of one node, its number from 1. A metric that was not finite is None."""

    label: str
    epoch: int
    metrics: Mapping[str, float | None]


class EpochReports:
    """Reads on in each node's progress from where it stopped; yields every epoch of a label once, whatever was killed.

    An attempt that goes on from a saved state reports its earlier epochs once more, and so do those that it repeats: they
    are known by their numbers.
    """

    def __init__(self, ledger: Ledger, *, run: str) -> None:
        self.ledger = ledger
        self.run = run
        self._offsets: dict[tuple[str, str], int] = {}
        self._last: dict[str, int] = {}

    def read(self, folders: Mapping[str, str]) -> list[EpochReport]:
        """New reports of the labels in `folders` (label: folder), in their order, epochs rising; looks at no other file."""
        found = []
        for label, folder in folders.items():
            place = (label, folder)
            lines, self._offsets[place] = self.ledger.progress(self.run, folder, offset=self._offsets.get(place, 0))
            for line in lines:
                epoch = line.get("epoch")
                if epoch is not None and epoch > self._last.get(label, 0):
                    self._last[label] = epoch
                    found.append(EpochReport(label=label, epoch=epoch, metrics=line["metrics"]))
        return found


def epochs_of(ledger: Ledger, *, run: str, node: str, key: str) -> list[EpochReport]:
    """Every epoch that the attempts at an artifact reported in `run`; its node was called `node` there, or something else."""
    folder = node_folder(node, key)
    reports = EpochReports(ledger, run=run)
    found = reports.read({node: folder})
    if found:
        return found
    ending = folder[-13:]
    others = [name for name in ledger.store.list(f"runs/{run}/nodes") if name.endswith(ending) and name != folder]
    return [report for name in others for report in reports.read({node: name})]

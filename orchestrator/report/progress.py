"""How far the running nodes of a run are: steps, metrics, time left; read from the ledger's progress files as they grow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from orchestrator.report.run_status import NodeStatus, RunStatus
from orchestrator.report.text import format_value
from orchestrator.store.ledger import Ledger

SHOWN_METRICS = ("top1_accuracy", "psnr_db", "noise_mse", "loss", "train_loss", "waited_s")
"""The metric that stands for a node's progress: the first of these that it reports, else the first it reports."""


@dataclass
class Progress:
    """The last progress of one attempt, and its first, from which the pace follows. `gpu_bytes`: the most it held of a GPU."""

    attempt: int
    step: int
    total: int
    first_step: int
    first_s: float
    last_s: float
    metrics: Mapping[str, Any] = field(default_factory=dict)
    gpu_bytes: int = 0

    @property
    def fraction(self) -> float:
        return min(1.0, self.step / self.total) if self.total > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At the mean pace of this attempt; None until it has one."""
        steps = self.step - self.first_step
        if steps <= 0 or self.last_s <= self.first_s:
            return None
        return (self.last_s - self.first_s) / steps * max(0, self.total - self.step)

    @property
    def metric(self) -> str:
        """The metric that says how it goes, as "name value"; empty without one."""
        numbers = {name: value for name, value in self.metrics.items() if isinstance(value, (int, float))}
        name = next((name for name in SHOWN_METRICS if name in numbers), next(iter(numbers), ""))
        short = {"top1_accuracy": "top1", "train_loss": "loss"}.get(name, name)
        return f"{short} {format_value(round(numbers[name], 4))}" if name else ""


class ProgressReader:
    """Reads what each running node has reported since the last look."""

    def __init__(self, ledger: Ledger, run: str) -> None:
        self.ledger = ledger
        self.run = run
        self._offsets: dict[str, int] = {}
        self._found: dict[str, Progress] = {}

    def read(self, status: RunStatus) -> dict[str, Progress]:
        """Progress of every running node that has reported, by label."""
        running = [node for node in status.nodes.values() if node.state == "running"]
        return {node.label: found for node in running if (found := self._read_node(node)) is not None}

    def _read_node(self, node: NodeStatus) -> Progress | None:
        lines, self._offsets[node.label] = self.ledger.progress(self.run, node.folder, offset=self._offsets.get(node.label, 0))
        found = self._found.get(node.label)
        for line in lines:
            now_s = datetime.fromisoformat(line["time"]).timestamp()
            if found is None or line["attempt"] != found.attempt or line["step"] < found.step:
                found = Progress(line["attempt"], line["step"], line["total"], line["step"], now_s, now_s, line["metrics"])
            else:
                found.step, found.total, found.last_s = line["step"], line["total"], now_s
                found.metrics = line["metrics"] or found.metrics
            found.gpu_bytes = line.get("gpu_bytes", found.gpu_bytes)
        if found is not None:
            self._found[node.label] = found
        return found if found is not None and found.attempt == node.attempt else None

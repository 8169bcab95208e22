"""The live block of a terminal: one line about the run, one for each active node. The only user of rich; imported late."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import IO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.report.live_sweeps import Rungs, front_text
from orchestrator.report.progress import Progress, ProgressReader
from orchestrator.report.run_status import NodeStatus, RunStatus
from orchestrator.report.run_sweeps import RunSweep
from orchestrator.report.status_table import counts_text
from orchestrator.report.sweep_table import counts
from orchestrator.report.text import format_bytes, format_seconds

REFRESH_PER_S = 4
BAR_WIDTH = 20
NARROW = 90
"""Columns below which the bar gives way to the label."""


class LiveBlock:
    """Draws the block until closed; lines printed meanwhile scroll away above it."""

    def __init__(self, file: IO[str], reader: ProgressReader, status: RunStatus, *, is_coloured: bool) -> None:
        self.status = status
        self._reader = reader
        self._lock = threading.Lock()
        self._began_s = time.monotonic()
        self._seen_running_s: dict[tuple[str, int], float] = {}
        self._rungs = Rungs(reader.ledger, status)
        self._console = Console(
            file=file, force_terminal=True, no_color=not is_coloured, highlight=False, markup=False, emoji=False
        )
        self._live = Live(
            console=self._console, get_renderable=self._block, refresh_per_second=REFRESH_PER_S, transient=True,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip
        self._live.start()

    def print(self, lines: Sequence[str]) -> None:
        """Lines that stay, above the block."""
        for line in lines:
            self._console.print(Text.from_ansi(line), soft_wrap=True)

    def close(self) -> None:
        """Remove the block; what was printed stays."""
        self._live.stop()

    def _block(self) -> Group:
        with self._lock:
            progress = self._reader.read(self.status)
            self._rungs.read(self.status)
        running = [node for node in self.status.nodes.values() if node.state == "running"]
        searches = [
            line for sweep in self.status.sweeps.values() if sweep.state == "searching" for line in self._sweep_lines(sweep)
        ]
        room = max(1, self._console.height - 3 - len(searches))
        hidden = len(running) - room
        parts: list[Text | Table] = [self._header(), *searches, self._nodes(running[:room], progress)]
        if hidden > 0:
            parts.append(Text(f"... and {hidden} more", style="dim"))
        return Group(*parts)

    def _header(self) -> Text:
        elapsed = format_seconds(float(int(time.monotonic() - self._began_s)))
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(f"run {self.status.id}", style="bold")
        worked_s = sum(node.seconds for node in self.status.nodes.values() if node.state == "done")
        worked = f"  work {format_seconds(worked_s)}" if worked_s >= 1 else ""
        text.append(f"  {self.status.workflow}  {elapsed}{worked}{self._gpu_hours()}  {counts_text(self.status)}")
        return text

    def _gpu_hours(self) -> str:
        """What attempts have held of GPUs so far, those that run among them; empty where none did."""
        now_s = time.monotonic()
        nodes = self.status.nodes.values()
        running = [(node, self._seen_running_s.get((node.label, node.attempt))) for node in nodes if node.state == "running"]
        spent_s = sum(node.gpu_seconds for node in nodes)
        spent_s += sum(node.gpus * (now_s - began_s) for node, began_s in running if began_s is not None)
        return f"  {spent_s / 3600:.2f} GPU-h" if spent_s > 0 else ""

    def _sweep_lines(self, sweep: RunSweep) -> list[Text]:
        """A line about the search, one about its rungs, one about its front; what says nothing yet is left out."""
        first = Text(no_wrap=True, overflow="ellipsis")
        first.append("SEARCH", style="yellow")
        first.append(f"  {sweep.name}  {counts(sweep)}")
        more = [text for text in (self._rungs.text(sweep), front_text(sweep)) if text]
        return [first, *(Text(f"        {text}", no_wrap=True, overflow="ellipsis", style="dim") for text in more)]

    def _nodes(self, running: Sequence[NodeStatus], progress: dict[str, Progress]) -> Table:
        """One line for each; on a narrow terminal without the bar, whose steps are told beside it."""
        is_narrow = self._console.width < NARROW
        has_gpu = any(found.gpu_bytes for found in progress.values())
        table = Table.grid(padding=(0, 2, 0, 0), expand=False)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(16, self._console.width - 68))
        for _ in range((3 if is_narrow else 4) + has_gpu):
            table.add_column(no_wrap=True, overflow="ellipsis")
        for node in running:
            began_s = self._seen_running_s.setdefault((node.label, node.attempt), time.monotonic())
            found = progress.get(node.label)
            word = Text("RUN   ", style="yellow")
            elapsed = format_seconds(float(int(time.monotonic() - began_s)))
            gpu = [format_bytes(found.gpu_bytes) if found is not None and found.gpu_bytes else ""] if has_gpu else []
            if found is None:
                what = Text("starting" if node.attempt < 2 else f"attempt {node.attempt}")
                table.add_row(word, node.label, what, elapsed, *([""] if is_narrow else ["", ""]), *gpu)
                continue
            bar = ProgressBar(total=max(1, found.total), completed=found.step, width=BAR_WIDTH)
            left = f"{format_seconds(found.seconds_left)} left" if found.seconds_left is not None else elapsed
            steps = f"{found.step}/{found.total}"
            if is_narrow:
                table.add_row(word, node.label, steps, left, found.metric, *gpu)
            else:
                table.add_row(word, node.label, bar, steps, found.metric, *gpu, left)
        return table

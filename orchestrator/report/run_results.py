"""The evaluations and tables of a run: of its own nodes, and of each sweep's best trial."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.report.found_sweeps import FoundSweep
from orchestrator.report.result_table import RESULT_KINDS, Result
from orchestrator.report.run_status import RunStatus
from orchestrator.store.artifacts import Artifacts
from stages.catalog import find_stage


def results_of(status: RunStatus, artifacts: Artifacts, sweeps: Sequence[FoundSweep]) -> list[Result]:
    """What a run has found, in the order of its nodes."""

    def is_result(stage: str) -> bool:
        spec = find_stage(stage)
        return spec is not None and spec.output in RESULT_KINDS

    best = [f"{found.label(found.sweep.best)}/" for found in sweeps if found.sweep.best is not None]
    wanted = [
        node for node in status.nodes.values()
        if node.state in ("hit", "done") and is_result(node.stage)
        and (not node.is_of_trial or node.label.startswith(tuple(best)))
    ]  # fmt: skip
    found = [(node, artifacts.find(node.stage, node.key)) for node in wanted]
    return [Result(node.label, record) for node, record in found if record is not None]

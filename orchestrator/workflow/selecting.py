"""Which nodes a selection leaves, by name: up to some, from some on. Sweeps are nodes here, whether settled or not."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from orchestrator.errors import UsageError
from orchestrator.workflow.check import CheckedWorkflow
from orchestrator.workflow.plan import DRIFTED, Plan, Selection, Status, SweepStatus


def refuse_unknown_names(checked: CheckedWorkflow, selection: Selection) -> None:
    """Raise UsageError for a selection that names no node and no sweep."""
    names = [*checked.loaded.workflow.nodes, *checked.loaded.workflow.sweeps]
    for asked in (*selection.rerun, *selection.until, *selection.start):
        if asked not in names and not (asked == DRIFTED and asked in selection.rerun):
            raise UsageError(f'the workflow has no node "{asked}"; it has {", ".join(names)}')


def selected_names(checked: CheckedWorkflow, selection: Selection) -> set[str]:
    """Names of the nodes and sweeps that a selection leaves; raises UsageError where it leaves nothing."""
    wanted = set(checked.order)
    if selection.until:
        wanted = with_above(checked, selection.until)
    if selection.start:
        below = with_below(checked, selection.start)
        wanted &= with_above(checked, below)
        if not wanted & below:
            raise UsageError(
                f"--from {', '.join(selection.start)} with --until {', '.join(selection.until)} leaves nothing to do",
                next_step="name a later node with --until, or an earlier one with --from",
            )
    return wanted


def with_above(checked: CheckedWorkflow, names: Collection[str]) -> set[str]:
    """The names and all that they need, however far."""
    wanted = set(names)
    for name in reversed(checked.order):
        if name in wanted:
            wanted.update(checked.targets[name])
    return wanted


def with_below(checked: CheckedWorkflow, names: Collection[str]) -> set[str]:
    """The names and all that needs them, however far."""
    below = set(names)
    for name in checked.order:
        if any(target in below for target in checked.targets[name]):
            below.add(name)
    return below


def require_hits_above(plan: Plan) -> None:
    """Raise UsageError if something before the nodes of `--from` has still to be made."""
    start = plan.selection.start
    if not start:
        return
    below = with_below(plan.checked, start)
    open_nodes: Mapping[str, bool] = {
        **{label: node.name not in below for label, node in plan.nodes.items() if node.status in (Status.RUN, Status.WAIT)},
        **{name: name not in below for name, sweep in plan.sweeps.items() if sweep.status is SweepStatus.SEARCH},
    }
    label = next((label for label, is_above in open_nodes.items() if is_above), None)
    if label is not None:
        raise UsageError(
            f'--from {", ".join(start)} needs "{label}", which has not been made yet',
            next_step="submit without --from, or with --from naming an earlier node",
        )

"""A simulation in words and as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.report.price_text import hours_document, hours_text
from orchestrator.report.simulation import Simulation
from orchestrator.report.text import Style, format_seconds, plural
from orchestrator.workflow.budget import NOTHING, Hours
from orchestrator.workflow.plan import Plan

MAX_SHOWN = 6


def simulation_lines(found: Simulation, *, plan: Plan, style: Style) -> list[str]:
    """How long, how much, how busy, what is saved, and what holds it up."""
    size = f"{plural(found.num_nodes, 'node')} on {plural(found.num_machines, 'machine')}"
    lines = [f"{style.paint(plan.name, 'bold')}  {size}, simulated"]
    if not found.num_attempts:
        return [*lines, "nothing to run: every node is a hit"]
    spread = f"  ({format_seconds(found.shortest_s)} to {format_seconds(found.longest_s)} by the range of the records)"
    rows = {"makespan": format_seconds(found.makespan_s) + (spread if found.shortest_s < found.longest_s else "")}
    for name, used, there, share in (
        ("GPU-hours", Hours(gpu=found.used.gpu), Hours(gpu=found.offered.gpu), found.busy.get("GPU", 0.0)),
        ("CPU-hours", Hours(cpu=found.used.cpu), Hours(cpu=found.offered.cpu), found.busy.get("CPU", 0.0)),
    ):
        if used != NOTHING:
            rows[name] = f"{hours_text(used)} of {hours_text(there)} that are there, {share:.0%} busy"
    if found.usd is not None:
        rows["cost"] = f"{found.usd:.2f} USD for the machines"
    rows["saved"] = _saved(found)
    if found.num_failed_attempts:
        rows["lost"] = f"{hours_text(found.lost)} in {plural(found.num_failed_attempts, 'attempt')} that came to nothing"
    rows["held up"] = _bottleneck(found)
    rows["rests on"] = _basis(found)
    lines += [f"{name:<10} {text}" for name, text in rows.items() if text]
    if found.state != "done":
        lines.append(f"{style.word('FAIL')}  with these failures the run ends as {found.state}: some node failed for good")
    return lines


def simulation_document(found: Simulation) -> dict[str, Any]:
    """All of it as data."""
    return {
        "state": found.state,
        "makespan_s": round(found.makespan_s, 3),
        "makespan_range_s": [round(found.shortest_s, 3), round(found.longest_s, 3)],
        "used": hours_document(found.used),
        "lost": hours_document(found.lost),
        "offered": hours_document(found.offered),
        "avoided": {"by_hits": hours_document(found.by_hits), "by_sharing": hours_document(found.by_sharing)},
        "busy": {name: round(share, 4) for name, share in found.busy.items()},
        "bottleneck": found.bottleneck,
        "critical_path": {"seconds": round(found.path_s, 3), "nodes": list(found.path)},
        "machines": found.num_machines,
        "nodes": found.num_nodes,
        "attempts": found.num_attempts,
        "failed_attempts": found.num_failed_attempts,
        "usd": round(found.usd, 4) if found.usd is not None else None,
        "records": found.num_records,
        "given": list(found.given),
        "trials": dict(found.trials),
        "not_foreseen": list(found.unforeseen),
    }


def _saved(found: Simulation) -> str:
    ways: Mapping[str, Hours] = {"by hits": found.by_hits, "by sharing": found.by_sharing}
    parts = [f"{hours_text(hours)} {way}" for way, hours in ways.items() if hours.cpu > 0 or hours.gpu > 0]
    if not parts:
        return ""
    done = found.used.cpu - found.lost.cpu
    factor = (done + found.by_hits.cpu + found.by_sharing.cpu) / done if done > 0 else 0.0
    return f"{', '.join(parts)}" + (f"; without either {factor:.2g} times as much" if factor else "")


def _bottleneck(found: Simulation) -> str:
    chain = list(found.path)
    if len(chain) > MAX_SHOWN:
        chain = [*chain[:3], "...", *chain[-2:]]
    path = f"the longest chain takes {format_seconds(found.path_s)}: {' -> '.join(chain)}"
    if found.bottleneck == "path":
        return f"by what waits for each other; more machines help little: {path}"
    busiest = found.bottleneck
    return f"by {busiest}, of which {found.busy[busiest]:.0%} is busy; more of it helps. {path[0].upper()}{path[1:]}"


def _basis(found: Simulation) -> str:
    parts = [plural(found.num_records, "record")] if found.num_records else []
    if found.given:
        more = f" and {len(found.given) - MAX_SHOWN} more" if len(found.given) > MAX_SHOWN else ""
        parts.append(f"given seconds of {', '.join(found.given[:MAX_SHOWN])}{more}")
    parts += [f"{plural(number, 'trial')} of {name} drawn evenly, none stopped early" for name, number in found.trials.items()]
    if found.unforeseen:
        parts.append(f"without {', '.join(found.unforeseen)}, which could not be foreseen")
    return "; ".join(parts)

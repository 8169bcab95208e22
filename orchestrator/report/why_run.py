"""Why a node of a run was run, or was a hit: all that sets its identity apart from another's, or from the nearest before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.report.run_status import NodeStatus, RunStatus
from orchestrator.report.text import Style, format_time, state_word
from orchestrator.report.why import difference_lines
from orchestrator.store.artifacts import Artifacts, Record
from orchestrator.workflow.explain import Difference, identity_differences, nearest_record
from stages.catalog import find_stage


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One artifact, made or not: what it is called here, its stage, key and identity."""

    name: str
    stage: str
    key: str
    identity: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunReason:
    """Why a node was run. `other` is what it is compared with; None where nothing like it had been made."""

    subject: Subject
    planned: str
    state: str
    other: Subject | None
    note: str
    differences: Sequence[Difference]


def subject_of(record: Record, name: str = "") -> Subject:
    """A finished artifact to compare with."""
    return Subject(
        name=name or f"{record.label} of run {record.run}", stage=record.stage, key=record.key, identity=record.identity
    )


def find_reason(
    status: RunStatus, node: NodeStatus, subject: Subject, artifacts: Artifacts, *, other: Subject | None = None
) -> RunReason:
    """What sets `subject`, a node of a run, apart from `other`; without one, from the nearest artifact before the run."""
    planned = next((row[4] for row in status.request["plan"] if row[0] == node.label), "RUN")
    note = _note(node, planned, subject, artifacts, status) if other is None else ""
    if other is None and planned != "HIT":
        record = nearest_record(artifacts, subject.stage, subject.key, subject.identity, before=status.created)
        other = subject_of(record) if record is not None else None
    differences: Sequence[Difference] = ()
    if other is not None:
        differences = identity_differences(find_stage(subject.stage), other.identity, subject.identity)
    return RunReason(subject=subject, planned=planned, state=node.state, other=other, note=note, differences=differences)


def reason_lines(reason: RunReason, *, style: Style) -> list[str]:
    """What `why NODE@RUN` prints: the first difference stands first, since the others mostly follow from it."""
    word = style.word(reason.planned if reason.planned in ("HIT", "SHARED", "SKIP") else state_word(reason.state))
    lines = [f"{word}  {reason.subject.name}  {reason.subject.key}"]
    if reason.note:
        lines.append(f"        {reason.note}")
    if reason.other is not None:
        lines.append(f"        compared with {reason.other.name}, {reason.other.stage} {reason.other.key[:8]}")
        same = "nothing differs: both have the same key" if reason.other.key == reason.subject.key else ""
        shown = difference_lines(reason.differences)
        lines += [f"        {line}" for line in ([same] if same else shown)]
    return lines


def reason_document(reason: RunReason) -> dict[str, Any]:
    """The same as data."""
    return {
        "node": reason.subject.name,
        "stage": reason.subject.stage,
        "key": reason.subject.key,
        "planned": reason.planned,
        "state": reason.state,
        "note": reason.note,
        "other": {"name": reason.other.name, "stage": reason.other.stage, "key": reason.other.key} if reason.other else None,
        "differences": [vars(difference) for difference in reason.differences],
    }


def _note(node: NodeStatus, planned: str, subject: Subject, artifacts: Artifacts, status: RunStatus) -> str:
    record = artifacts.find(subject.stage, subject.key)
    if planned == "HIT":
        made = f"finished {format_time(record.finished)} by run {record.run}" if record is not None else "it is gone by now"
        return f"a hit: {made}"
    if planned in ("SHARED", "SKIP") or node.state in ("skipped", "blocked"):
        return node.note or {"SHARED": "another node of the run has the same key"}.get(planned, "")
    nearest = nearest_record(artifacts, subject.stage, subject.key, subject.identity, before=status.created)
    if record is not None and record.run != status.id and record.finished < status.created:
        return "it had been made before: it was asked to be made again (--rerun)"
    return "" if nearest is not None else f"no artifact of stage {subject.stage} had been made here before this run"

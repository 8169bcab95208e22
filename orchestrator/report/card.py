"""The model card of one artifact: what it is, from what, its figures, how to load and reproduce it. Reads the store only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.report.page.origins import environments, input_keys, lineage, lineage_document
from orchestrator.report.page.sources import finite, plain
from orchestrator.report.page.text_forms import fenced, plain_text, table
from orchestrator.report.page.truth import truth_rows
from orchestrator.report.result_table import RESULT_KINDS, Result, result_documents, result_lines
from orchestrator.report.run_status import submit_command
from orchestrator.report.text import Style, format_bytes, format_figure, format_seconds, format_time, format_value
from orchestrator.store.artifacts import Artifacts, Record
from orchestrator.store.ledger import Ledger
from stages.catalog import find_stage
from stages.evaluate.statistics import wilson_interval

_LOADING = {
    "model": (
        "from pathlib import Path",
        "from stages.models.bundle import load_bundle",
        'model = load_bundle(Path("./model")).model  # a torch module in evaluation mode',
    ),
    "packed": (
        "from pathlib import Path",
        "from stages.models.packed import load_packed",
        'model = load_packed(Path("./model/packed.safetensors"))  # a plain torch module',
    ),
    "exported": (
        "import onnxruntime",
        'session = onnxruntime.InferenceSession("./model/model.onnx")',
        "session.run(None, {session.get_inputs()[0].name: images})",
    ),
    "program": ("import torch", 'model = torch.export.load("./model/model.pt2").module()'),
}
"""By kind of artifact, after `artifacts get KEY ./model`."""


@dataclass(frozen=True)
class Card:
    """All that a card says; `evaluations` measured this artifact, `request` is what the run that made it was asked."""

    record: Record
    records: Sequence[Record]
    evaluations: Sequence[Result]
    request: Mapping[str, Any] | None


def read_card(record: Record, artifacts: Artifacts) -> Card:
    """Gather the lineage of an artifact, the evaluations of it, and the request of the run that made it."""

    def find(key: str) -> Record | None:
        if key == record.key:
            return record
        stage = next((stage for stage, found in artifacts.keys_starting(key) if found == key), None)
        return artifacts.find(stage, key) if stage is not None else None

    names = [name for name in artifacts.store.list("artifacts") if _is_evaluation(name)]
    measured = [each for name in sorted(names) for each in artifacts.all_records(name) if _measures(each, record.key)]
    measured.sort(key=lambda each: (each.finished, each.label))
    try:
        request = Ledger(artifacts.store).request(record.run).content
    except UsageError:  # the run is of another store, or was removed
        request = None
    evaluations = [Result(each.label, each) for each in measured]
    return Card(record=record, records=lineage(find, [record.key]), evaluations=evaluations, request=request)


def card_document(card: Card) -> dict[str, Any]:
    """The card as data."""
    record = card.record
    document: dict[str, Any] = plain({
        "key": record.key,
        "label": record.label,
        "stage": record.stage,
        "kind": record.kind,
        "run": record.run,
        "finished": record.finished,
        "files": {name: {"digest": file.digest, "size_bytes": file.size_bytes} for name, file in record.files.items()},
        "metrics": record.metrics,
        "measurements": record.measurements,
        "intervals": {"top1_accuracy": interval} if (interval := _interval(record.metrics)) else {},
        "evaluations": result_documents(card.evaluations),
        "lineage": lineage_document(card.records),
        "environments": environments(card.records),
        "experimental": _experimental(card),
        "load": _loading(record),
        "reproduce": submit_command(card.request) if card.request is not None else None,
    })  # fmt: skip
    return document


def card_markdown(card: Card, *, program: str = "orchestrator") -> str:
    """The card as Markdown."""
    record = card.record
    spec = find_stage(record.stage)
    lines = [f"# {plain_text(record.label)} ({record.key[:8]})", ""]
    took = f"finished {format_time(record.finished)} UTC in {format_seconds(record.seconds)}"
    lines.append(
        f"An artifact of kind {record.kind}, {format_bytes(record.size_bytes)}, made by stage `{record.stage}` "
        f"in run {record.run}, {took}. Key `{record.key}`."
    )
    if spec is not None:
        source = f" Source: {plain_text(spec.source)}." if spec.source else ""
        lines += ["", f"{plain_text(spec.summary)}.{source}".replace("..", ".")]
    if experimental := _experimental(card):
        lines += ["", f"Experimental, no published figure has been reproduced: {', '.join(experimental)}."]
    lines += ["", "## Figures", "", *_figures(card)]
    if card.evaluations:
        lines += ["", "## Evaluations of it", "", *fenced(result_lines(card.evaluations, style=Style(), width=None), "text")]
    lines += ["", "## Made from", ""]
    lines += table(
        ("artifact", "stage", "key", "from", "settings", "run"),
        [
            (
                each.label, each.stage, each.key[:8], ", ".join(f"{port} {key[:8]}" for port, key in input_keys(each)),
                ", ".join(f"{name} {format_value(value)}" for name, value in each.identity.get("settings", {}).items())
                or "all defaults",
                each.run,
            )
            for each in card.records
        ],
    )  # fmt: skip
    lines += ["", "## Environment", ""]
    for each in environments(card.records):
        versions = ", ".join(f"{name} {version}" for name, version in (each.get("versions") or {}).items())
        commit = f"commit {each.get('commit') or 'not known'}{', with changes beside it' if each.get('dirty') else ''}"
        lines.append(plain_text(f"- {commit}; {each.get('host', '')}; {versions} (made {', '.join(each['made'])})"))
    lines += ["", "## How to load", "", *fenced([f"{program} artifacts get {record.key[:8]} ./model"], "sh")]
    lines += ["", *fenced(_loading(record), "python")] if _loading(record) else []
    lines += ["", "## How to reproduce", ""]
    if card.request is not None:
        command = submit_command(card.request).replace("orchestrator ", f"{program} ", 1)
        lines += [*fenced([command], "sh"), "", f"with the workflow that run {record.run} was asked for:", ""]
        lines += fenced(str(card.request.get("text", "")).rstrip("\n").splitlines(), "yaml")
    else:
        lines.append(f"The ledger of run {record.run} is not in this store; the settings above say what was done.")
    return "\n".join(lines) + "\n"


def _figures(card: Card) -> list[str]:
    """Nominal, stored and measured figures apart, accuracies with their interval; then what else the stage reported."""
    record = card.record
    values = {**record.metrics, **record.measurements}
    row = {"label": record.label, "stage": record.stage, "key": record.key, "metrics": record.metrics,
           "measurements": record.measurements}  # fmt: skip
    groups = truth_rows({"results": {"rows": [row]}, "lineage": []})["groups"]
    named = {name: group for group, names in groups.items() for name in names}
    rows = []
    for name, value in values.items():
        if finite(value) is None and not isinstance(value, (bool, str)):
            continue
        text = format_figure(value)
        interval = _interval(record.metrics) if name == "top1_accuracy" else None
        if interval:
            text += f" (95%: {interval[0]:.4f} to {interval[1]:.4f}, of {record.metrics['num_test']:,} images, one seed)"
        kind = "measured" if name in record.measurements else named.get(name, "reported")
        kind = "accuracy" if name == "top1_accuracy" else kind
        rows.append((kind, name, text))
    order = ("accuracy", "nominal", "stored", "measured", "reported")
    return table(("kind", "figure", "value"), sorted(rows, key=lambda row: order.index(row[0])))


def _interval(metrics: Mapping[str, Any]) -> tuple[float, float] | None:
    right, total = metrics.get("num_correct"), metrics.get("num_test")
    if "top1_accuracy" not in metrics or not isinstance(right, int) or not isinstance(total, int) or total <= 0:
        return None
    return wilson_interval(right, total)


def _experimental(card: Card) -> list[str]:
    stages = dict.fromkeys(each.stage for each in card.records)
    return [name for name in stages if (spec := find_stage(name)) is not None and spec.experimental]


def _loading(record: Record) -> list[str]:
    return list(_LOADING.get(record.kind, ()))


def _is_evaluation(stage: str) -> bool:
    spec = find_stage(stage)
    return spec is not None and spec.output in RESULT_KINDS


def _measures(evaluation: Record, key: str) -> bool:
    return any(found == key and port != "baseline" for port, found in input_keys(evaluation))

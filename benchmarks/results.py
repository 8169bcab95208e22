"""Every method beside its controls on scikit-learn's digits, over several seeds: `python benchmarks/results.py --seeds 10`.

Runs workflows/results/*.yaml once per seed through the engine (what is finished is not run again) and writes docs/results.md
from the records alone. `--seeds 2` is the reduced form, about 20 minutes on 2 idle cores; `--no-run` tables what there is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import api
from orchestrator.store.artifacts import Record

ROOT = Path(__file__).parents[1]
MODELS = ("cnn", "vit17", "vit65")
NOT_WORSE_BY = 0.5
"""Points of accuracy: "not worse" means that the lower end of the paired interval lies above minus this."""

EMPTY = 3
"""Lines of a table without rows: its heading, and two that name the columns."""

GPU_SECTIONS = {
    "gpu.json": {
        "sparse": "2:4 linear layers at ViT-L shapes, and ViT-L whole, beside dense float16",
        "low_bits": "int8 and fp8 products at the same shapes",
        "tokens": "DiffRate's operators and ToMe on ViT-L and ViT-H, beside the share of multiply-accumulates",
        "freezing": "backward pass of ResNet-18 with frozen weights",
    },
    "training_gpu.json": {"rows": "training in bfloat16 beside a plain loop"},
}
"""File of `benchmarks/out` -> section -> what it measures."""

Found = Mapping[str, Sequence[Record | None]]
"""Records of one model by node label, one for each seed in order; None where the node has not been made."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table: a node beside its controls, with what peers reach on the same work."""

    what: str
    label: str
    controls: Mapping[str, str]
    peers: str = "-"
    target: float | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of one model under a heading; `extra` adds a cell from a row's records."""

    model: str
    title: str
    rows: Sequence[Row]
    note: str = ""
    extra: tuple[str, Callable[[Found, Row], str]] | None = None


def _nm_rows(pattern: str, peers: str, target: float | None) -> Row:
    controls = {"SR-STE": f"sr_ste[n_m={pattern}]", "one-shot": f"magnitude_tuned[n_m={pattern}]", "dense": "dense_tuned"}
    return Row(what=f"LBC {pattern}", label=f"lbc[n_m={pattern}]", controls=controls, peers=peers, target=target)


def _frozen(found: Found, row: Row) -> str:
    return f"{100 * _mean(found, row.label, 'mean_frozen_fraction'):.0f} %"


def _compute(found: Found, row: Row) -> str:
    """The row's and each control's, from the tokens that really enter each layer."""
    dense = _mean(found, "pretrain", "gmacs")
    return ", ".join(
        f"{_mean(found, label, 'gmacs') / dense:.3f}" for label in (row.label, *row.controls.values()) if label in found
    )


def _mean(found: Found, label: str, metric: str) -> float:
    figures = [record.metrics[metric] for record in found.get(label, []) if record is not None]
    return statistics.mean(figures) if figures else float("nan")


TABLES = (
    Table(
        model="vit17",
        title="N:M sparsity, 17-token transformer",
        rows=(
            _nm_rows("2:4", "SR-STE 98.59, one-shot 98.44", None),
            _nm_rows("1:8", "SR-STE 97.78, one-shot 97.26", 97.8),
            _nm_rows("1:16", "SR-STE 96.81, one-shot 95.56", 96.8),
        ),
    ),
    Table(
        model="cnn",
        title="N:M sparsity, convolutional network",
        rows=(
            _nm_rows("2:4", "SR-STE 99.63, one-shot 99.78", None),
            _nm_rows("1:8", "SR-STE 99.11, one-shot 99.11", None),
            _nm_rows("1:16", "SR-STE 99.26, one-shot 98.59", 99.2),
        ),
    ),
    Table(
        model="vit17",
        title="Quantization, 17-token transformer (first and last layer 8 bits)",
        rows=(
            Row(what="LTS W4A4", label="lts_w4", controls={"QAT": "qat_w4"}, peers="LSQ 98.52"),
            Row(
                what="LTS W2A4", label="lts_w2[activation_bits=4]", controls={"QAT": "qat_w2[activation_bits=4]"},
                peers="LSQ 98.15",
            ),
            Row(
                what="LTS W2A2", label="lts_w2[activation_bits=2]", controls={"QAT": "qat_w2[activation_bits=2]"},
                peers="LSQ 97.04", target=97.4,
            ),
        ),
        extra=("frozen, mean over training", _frozen),
    ),
    Table(
        model="cnn",
        title="Quantization, convolutional network (first and last layer 8 bits)",
        rows=(
            Row(
                what="LTS W2A4", label="lts_w2[activation_bits=4]", controls={"QAT": "qat_w2[activation_bits=4]"},
                peers="LSQ 99.70",
            ),
            Row(
                what="LTS W2A2", label="lts_w2[activation_bits=2]", controls={"QAT": "qat_w2[activation_bits=2]"},
                peers="LSQ 99.41",
            ),
        ),
        extra=("frozen, mean over training", _frozen),
    ),
    Table(
        model="vit17",
        title="Fewer tokens, 17-token transformer",
        rows=(
            Row(
                what="DiffRate 0.76", label="diffrate[gmacs_ratio=0.745]",
                controls={"ToMe": "tome[merged=2]", "uniform": "uniform[gmacs_ratio=0.761]"}, peers="ToMe 91.9", target=93.5,
            ),
            Row(
                what="DiffRate 0.64", label="diffrate[gmacs_ratio=0.61]",
                controls={"ToMe": "tome[merged=3]", "uniform": "uniform[gmacs_ratio=0.644]"}, peers="ToMe 84.7", target=88.0,
            ),
            Row(
                what="DiffRate 0.76, fine-tuned", label="diffrate_tuned[gmacs_ratio=0.745]",
                controls={"ToMe": "tome_tuned[merged=2]"}, peers="ToMe 97.11", target=97.6,
            ),
            Row(
                what="DiffRate 0.64, fine-tuned", label="diffrate_tuned[gmacs_ratio=0.61]",
                controls={"ToMe": "tome_tuned[merged=3]"}, peers="ToMe 96.89", target=97.2,
            ),
        ),
        note="The weights rest while the rates are learned; ToMe and uniform change no weight either, until fine-tuned.",
        extra=("compute of row and controls, share of dense", _compute),
    ),
    Table(
        model="vit65",
        title="Fewer tokens, 65-token transformer, no weight trained",
        rows=tuple(
            Row(
                what=f"DiffRate {ratio:.2f}", label=f"diffrate[gmacs_ratio={ratio}]",
                controls={"ToMe": f"tome[merged={merged}]", "uniform": f"uniform[gmacs_ratio={ratio}]"},
                peers=f"ToMe {tome}", target=target,
            )
            for ratio, merged, tome, target in ((0.747, 9, 98.96, None), (0.606, 15, 98.30, 98.5), (0.497, 25, 96.44, 97.4))
        ),
        note="With its first block whole, no constant rate gets to 0.50.",
        extra=("compute of row and controls, share of dense", _compute),
    ),
)  # fmt: skip


def main() -> int:
    """Run what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS, help=f"of {', '.join(MODELS)}; default: all")
    parser.add_argument("--seeds", type=int, default=10, help="seeds 0 to N-1 (default: 10)")
    parser.add_argument("--store", default=None, help="store (default: .orchestrator here)")
    parser.add_argument("--executor", choices=("ray", "inline"), default="ray")
    parser.add_argument("--no-run", action="store_true", help="table what is finished, run nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results.md")
    asked = parser.parse_args()
    workspace = api.open_workspace(asked.store)
    found: dict[str, Found] = {}
    for seed in range(asked.seeds if not asked.no_run else 0):
        for model in asked.models:
            plan = api.plan(_file(model), workspace=workspace, overrides=[f"seed={seed}"])
            result = api.submit(plan, workspace=workspace, executor=asked.executor)
            sys.stdout.write(f"{model} seed {seed}: {result.state.value}\n")
            sys.stdout.flush()
            if result.state is not api.State.DONE:
                return 3
    for model in asked.models:
        found[model] = _records(model, range(asked.seeds), workspace)
    asked.out.write_text(_document(found))
    return 0


def _file(model: str) -> Path:
    return ROOT / "workflows" / "results" / f"{model}.yaml"


def _records(model: str, seeds: Sequence[int], workspace: api.Workspace) -> Found:
    found: dict[str, list[Record | None]] = {}
    for seed in seeds:
        plan = api.plan(_file(model), workspace=workspace, overrides=[f"seed={seed}"])
        for label, node in plan.nodes.items():
            found.setdefault(label, []).append(node.record)
    return found


def _document(found: Mapping[str, Found]) -> str:
    parts = [HEADER, *(_table(table, found[table.model]) for table in TABLES if table.model in found)]
    parts += [_bytes(found), _integers(found), _speed(found), gpu_tables(ROOT / "benchmarks" / "out")]
    return "\n".join(part for part in parts if part)


def gpu_tables(out: Path) -> str:
    """What `benchmarks/gpu.py` and `benchmarks/training.py` found on a GPU, with device and date."""
    lines = ["", "## On a GPU", "", "How: [on a GPU](gpu.md).", ""]
    rows: list[str] = []
    for file, sections in GPU_SECTIONS.items():
        found = json.loads((out / file).read_text()) if (out / file).exists() else {}
        for section, what in sections.items():
            measured = found.get("sections", found).get(section, [])
            if not measured:
                rows.append(f"| {what} | not measured |")
                continue
            columns = list(dict.fromkeys(name for row in measured for name in row))
            lines += [f"### {what}: {found['device']}, {found['date']}, torch {found['torch']}", ""]
            lines += [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
            for row in measured:
                cells = (row.get(name, "") for name in columns)
                lines.append(f"| {' | '.join(f'{cell:.3g}' if isinstance(cell, float) else str(cell) for cell in cells)} |")
            lines.append("")
    return "\n".join([*lines, "| what | |", "| --- | --- |", *rows]) + "\n" if rows else "\n".join(lines)


def _table(table: Table, found: Found) -> str:
    names = list(dict.fromkeys(name for row in table.rows for name in row.controls))
    heads = ["", "mean (min-max), n", *(f"minus {name}, paired 95 %" for name in names), "peers", "target"]
    heads += [table.extra[0]] if table.extra else []
    lines = [f"## {table.title}\n", _line(heads), _line(["---"] * len(heads))]
    for row in table.rows:
        records = found.get(row.label, [])
        values = [_top1(record) for record in records]
        there = [value for value in values if value is not None]
        if not there:
            continue
        mean = statistics.mean(there)
        cells = [row.what, f"{mean:.2f} ({min(there):.1f}-{max(there):.1f}), {len(there)}"]
        cells += [_difference(values, [_top1(r) for r in found.get(row.controls.get(name, ""), [])]) for name in names]
        cells += [row.peers, _target(mean, row.target) + _excess(found, row)]
        cells += [table.extra[1](found, row)] if table.extra else []
        lines.append(_line(cells))
    if len(lines) == EMPTY:
        return ""
    dense = [value for record in found.get("pretrain", []) if (value := _top1(record)) is not None]
    before = (
        f"Dense, before any further training: {statistics.mean(dense):.2f} ({min(dense):.1f}-{max(dense):.1f}). {table.note}"
    )
    return "\n".join([*lines, "", before.rstrip(), ""])


def _top1(record: Record | None) -> float | None:
    return None if record is None else 100 * record.metrics["top1_accuracy"]


def _difference(values: Sequence[float | None], others: Sequence[float | None]) -> str:
    """Mean of the paired differences with Student's interval, and what it allows to say."""
    pairs = [a - b for a, b in zip(values, others, strict=False) if a is not None and b is not None]
    if len(pairs) < 2:
        return "-"
    mean, half = statistics.mean(pairs), _half_width(pairs)
    low, high = mean - half, mean + half
    verdict = "better" if low > 0 else "worse" if high < 0 else "not worse" if low > -NOT_WORSE_BY else "open"
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f}) {verdict}"


def _half_width(values: Sequence[float]) -> float:
    from scipy import stats

    return float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5


def _target(mean: float, target: float | None) -> str:
    return "-" if target is None else f"{target:g}: {'met' if mean >= target else 'MISSED'}"


def _excess(found: Found, row: Row) -> str:
    """That a row with fewer tokens computes more than ToMe, where it does: its target holds at equal cost only."""
    tome = row.controls.get("ToMe")
    if row.target is None or tome is None or tome not in found:
        return ""
    ratio = _mean(found, row.label, "gmacs") / _mean(found, tome, "gmacs")
    return "" if ratio <= 1.001 else f", but at {ratio:.3f} of ToMe's compute"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


IDEAL_KB = {("vit17", "2:4"): 303.5, ("vit17", "1:8"): 96.7, ("vit17", "1:16"): 61.9}
IDEAL_KB |= {("cnn", "2:4"): 64.5, ("cnn", "1:8"): 20.9, ("cnn", "1:16"): 13.5}


def _bytes(found: Mapping[str, Found]) -> str:
    heads = ["packed file", "bytes", "share of dense", "share of gzip", "computed, bytes", "largest difference after unpacking"]
    lines = ["## Stored bytes (one seed)\n", _line(heads), _line(["---"] * len(heads))]
    for model, records in found.items():
        for label, made in records.items():
            record = made[0] if label.startswith("packed") and made else None
            if record is None:
                continue
            metrics = record.metrics
            ideal = next((kb for (name, pattern), kb in IDEAL_KB.items() if name == model and f"={pattern}]" in label), None)
            cells = [f"{model} {label}", f"{metrics['size_bytes']:,}", f"{metrics['size_ratio']:.2f}"]
            cells += [f"{metrics['size_ratio_to_gzip']:.2f}", f"{1000 * ideal:,.0f}" if ideal else "-"]
            lines.append(_line([*cells, f"{metrics['max_abs_difference']:g}"]))
    return "\n".join([*lines, ""]) if len(lines) > EMPTY else ""


def _integers(found: Mapping[str, Found]) -> str:
    heads = ["integer ONNX", "top-1 of file", "bytes, share of float ONNX", "times faster b1 / b64", "mark"]
    lines = ["## int8 chosen by kind of layer (seed 0)\n", _line(heads), _line(["---"] * len(heads))]
    for model, records in found.items():
        measured, made = records.get("int8_measured", [None])[0], records.get("int8", [None])[0]
        if measured is None or made is None:
            continue
        cells = [model, f"{100 * measured.metrics['top1_accuracy']:.2f}", f"{made.metrics['size_ratio']:.2f}"]
        lines.append(_line([*cells, _speeds(measured), _mark(measured)]))
    return "\n".join([*lines, ""]) if len(lines) > EMPTY else ""


def _speed(found: Mapping[str, Found]) -> str:
    heads = ["DiffRate, 65 tokens", "ONNX Runtime: times faster b1 / b64", "torch: times faster b1 / b64", "mark (torch)"]
    lines = ["## Speed of fewer tokens (seed 0)\n", _line(heads), _line(["---"] * len(heads))]
    for label, made in found.get("vit65", {}).items():
        torch_label = label.replace("measured[", "measured_in_torch[")
        if not label.startswith("measured[") or made[0] is None or found["vit65"][torch_label][0] is None:
            continue
        in_torch = found["vit65"][torch_label][0]
        assert in_torch is not None
        lines.append(_line([label[9:-1], _speeds(made[0]), _speeds(in_torch), _mark(in_torch)]))
    return "\n".join([*lines, ""]) if len(lines) > EMPTY else ""


def _speeds(record: Record) -> str:
    return " / ".join(_speedup(record.measurements.get(f"latency_ratio_b{size}")) for size in (1, 64))


def _speedup(ratio: Any) -> str:
    """The baseline's latency over the model's: above 1 is faster."""
    return f"{ratio:.2f}" if isinstance(ratio, float) else "-"


def _mark(record: Record) -> str:
    if record.measurements.get("neither_smaller_nor_faster"):
        return "neither smaller nor faster"
    return str(record.measurements.get("trade_off") or "-")


HEADER = """# Results on digits

Written by `python benchmarks/results.py --seeds 10` from the records of the store; nothing here is typed by hand. The data are
scikit-learn's digits: 1347 images to train on, 450 to test on; one image is 0.22 points. Every row starts from the same dense
weights as its controls and trains as many epochs (a third of the dense ones) by the same recipe; seeds are paired. Settings
were chosen on validation images held out of training, with other seeds, and are the same for a method and its controls; those
of DiffRate on 65 tokens stood before that, and those on 17 tokens, and their budgets, for a cost that is not above the one of
ToMe.

"better" and "worse": the paired 95 % interval (Student) excludes 0; "not worse": it lies above -0.5 points; "open": neither.
All seeds share the test images, so intervals speak of the randomness of training alone. "Peers" are other tools on the same
models and split (3 seeds), measured apart from these runs: their learning rate was lower and their dense weights others, so a
difference to them is not one of methods; the controls are there for that. N:M masks change neither the bytes of a plain file
nor its time; only the packed file is smaller, and it is no faster.
"""

if __name__ == "__main__":
    raise SystemExit(main())

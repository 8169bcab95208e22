"""The pictures of each method, from what its stages recorded: curves over epochs, tokens kept per block, density per layer,
images that a model drew.

Read from `history.json`, `layers.json`, `tokens.json` and `samples.png` of finished artifacts, and from the ledger's epochs
where there is no artifact (yet). Of a sweep's trials the best, its ties and the front are shown first, at most `MAX_TRIALS`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.report.found_sweeps import FoundSweep
from orchestrator.report.page.curves import thinned
from orchestrator.report.page.sources import Sources, finite
from orchestrator.report.run_status import NodeStatus
from orchestrator.report.sweep_table import mark, ordered
from orchestrator.store.artifacts import Record

MAX_TRIALS = 8
MAX_POINTS = 300
"""Of one curve: more than a plot is wide in columns that can be told apart."""

_PNG = b"\x89PNG\r\n\x1a\n"

CURVES = {
    "frozen_fraction": ("LTS: weights that are frozen", "frozen, share of trainable parameters"),
    "kept_combinations": ("LBC: combinations left in every block", "combinations left"),
    "mask_density": ("LBC: weights under the masks", "density of masked layers"),
    "gmacs_ratio": ("DiffRate: cost of the schedule while it is searched", "multiply-accumulates over all tokens'"),
    "top1_accuracy": ("Accuracy while training", "top-1 accuracy"),
    "noise_mse": ("Error of denoisers while training", "squared error of the predicted noise"),
    "psnr_db": ("Quality of restored images while training", "PSNR, dB"),
    "loss": ("Loss while training", "loss"),
}
"""Figures of an epoch that have a picture of their own: its title, and what is drawn upright."""


@dataclass(frozen=True)
class _Pictured:
    """A node whose pictures are drawn; `is_best` where it is of a sweep's best trial or of the run itself."""

    node: NodeStatus
    record: Record | None
    is_best: bool


def methods_document(sources: Sources) -> dict[str, Any]:
    """Curves by figure, tokens per block, images with their patches, and rows of layers; empty lists where nothing is known."""
    pictured = list(_pictured(sources))
    return {
        "curves": _curves(sources, pictured),
        "tokens": _kept_tokens(pictured),
        "images": _images(sources, pictured),
        "layers": _layers(sources, pictured),
        "samples": _samples(sources, pictured),
        "left_out": sum(max(0, len(found.trials) - MAX_TRIALS) for found in sources.sweeps),
    }


def _pictured(sources: Sources) -> Iterable[_Pictured]:
    for node in sources.status.nodes.values():
        if not node.is_of_trial:
            yield _Pictured(node, sources.record_of_node(node), is_best=True)
    for found in sources.sweeps:
        for number in _shown_trials(found):
            is_best = mark(found, number) == "best"
            for node in sources.nodes_of_trial(found, number):
                yield _Pictured(node, sources.record_of_node(node), is_best=is_best)


def _shown_trials(found: FoundSweep) -> list[int]:
    return [trial.number for trial in ordered(found) if trial.keys][:MAX_TRIALS]


def _curves(sources: Sources, pictured: Sequence[_Pictured]) -> list[dict[str, Any]]:
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CURVES}
    seen: set[str] = set()
    for each in pictured:
        if each.node.key in seen:  # trials that share a node share its curve
            continue
        seen.add(each.node.key)
        lines = _epochs(sources, each)
        for name in CURVES:
            points = [
                (float(line["epoch"]), value)
                for line in lines
                if finite(line.get("epoch")) is not None and (value := finite(line.get(name))) is not None
            ]
            if len(points) > 1:
                found[name].append({
                    "label": each.node.label, "key": each.node.key, "is_best": each.is_best,
                    "points": [list(point) for point in thinned(points, limit=MAX_POINTS)],
                })  # fmt: skip
    return [
        {"figure": name, "title": CURVES[name][0], "y": CURVES[name][1], "series": series}
        for name, series in found.items()
        if series
    ]


def _epochs(sources: Sources, each: _Pictured) -> list[Mapping[str, Any]]:
    """One mapping an epoch: of the artifact, or of what the running or failed attempts reported."""
    if each.record is not None:
        lines = sources.json_file(each.record, "history.json")
        return [line for line in lines if isinstance(line, dict)] if isinstance(lines, list) else []
    if each.node.state in ("planned", "blocked", "skipped", "hit"):
        return []
    by_epoch: dict[int, Mapping[str, Any]] = {}
    for line in sources.ledger.progress(sources.status.id, each.node.folder)[0]:
        if isinstance(line.get("epoch"), int) and isinstance(line.get("metrics"), dict):
            by_epoch[line["epoch"]] = {**line["metrics"], "epoch": line["epoch"]}
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def _kept_tokens(pictured: Sequence[_Pictured]) -> list[dict[str, Any]]:
    """Tokens that leave each block, of every node that reduces them, and how many it pruned and merged there."""
    found = []
    for each in _unlike(pictured):
        metrics = each.record.metrics if each.record is not None else {}
        kept, pruned, merged = (_numbers(metrics.get(name)) for name in ("kept_tokens", "num_pruned", "num_merged"))
        if kept and len(kept) == len(pruned) == len(merged):
            found.append({
                "label": each.node.label, "key": each.node.key, "is_best": each.is_best, "kept": kept, "pruned": pruned,
                "merged": merged,
            })  # fmt: skip
    return found


def _images(sources: Sources, pictured: Sequence[_Pictured]) -> list[dict[str, Any]]:
    """Images with their patches, of the run's own nodes and the best trials."""
    found = []
    for each in _unlike(pictured):
        if each.record is None or not each.is_best:
            continue
        content = sources.json_file(each.record, "tokens.json")
        if isinstance(content, dict) and content.get("format") == 1 and isinstance(content.get("images"), list):
            found.append({"label": each.node.label, "key": each.node.key, "grid": content["grid"], "images": content["images"]})
    return found


def _layers(sources: Sources, pictured: Sequence[_Pictured]) -> list[dict[str, Any]]:
    """Density and bits of each layer, of the run's own models and the best trials'."""
    found = []
    for each in _unlike(pictured):
        if each.record is None or not each.is_best:
            continue
        content = sources.json_file(each.record, "layers.json")
        rows = content.get("layers") if isinstance(content, dict) and content.get("format") == 1 else None
        if rows:
            layers = [
                {**row, "density": row["num_nonzero"] / row["num_weights"] if row["num_weights"] else 0.0} for row in rows
            ]
            found.append({"label": each.node.label, "key": each.node.key, "layers": layers})
    return found


def _samples(sources: Sources, pictured: Sequence[_Pictured]) -> list[dict[str, Any]]:
    """Grids of images that the run's own models and the best trials' drew: PNG as base64, with the distance to real ones."""
    found = []
    for each in _unlike(pictured):
        if each.record is None or not each.is_best:
            continue
        content = sources.bytes_of_file(each.record, "samples.png")
        if content is not None and content.startswith(_PNG):
            distance = finite(each.record.metrics.get("frechet_distance"))
            found.append({
                "label": each.node.label, "key": each.node.key, "frechet_distance": distance,
                "png": base64.b64encode(content).decode("ascii"),
            })  # fmt: skip
    return found


def _unlike(pictured: Sequence[_Pictured]) -> list[_Pictured]:
    """Each artifact once."""
    return list({each.node.key: each for each in reversed(pictured)}.values())[::-1]


def _numbers(value: Any) -> list[float]:
    return list(value) if isinstance(value, list) and all(finite(each) is not None for each in value) else []

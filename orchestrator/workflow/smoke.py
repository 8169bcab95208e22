"""`--smoke`: the overrides that make a workflow tiny: a few images in place of the data, one epoch, two trials, no constraint,
one core and no GPU.

They are overrides like any others: they change what is asked, so the artifacts get keys of their own and are never taken for
real ones. A node that reads no data and trains nothing asks for the same as ever, and then shares its artifact.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Any

from pydantic import TypeAdapter, ValidationError

from orchestrator.workflow.check import CheckedSweep, CheckedWorkflow
from orchestrator.workflow.spec import Node, Resources
from orchestrator.workflow.sweep_spec import Distribution
from stages.contract import StageSpec
from stages.data.settings import DataSettings
from stages.data.source import LARGE_PIXELS, DataSource

NUM_TRIALS = 2
MAX_COMBINATIONS = 200
_SMALL = {
    "batch_size": 32, "calibration_samples": 32, "verify_samples": 8, "latency_seconds": 0.05, "batch_sizes": [1, 8],
    "min_agreement": 0.0, "accumulate_steps": 1, "num_samples": 32, "num_steps": 4,
}  # fmt: skip
"""What other settings become where a stage has them. An untrained model agrees with nothing, so no agreement is asked."""
_SMALL_LARGE_IMAGES = {
    "batch_size": 4, "calibration_samples": 4, "verify_samples": 2, "latency_seconds": 0, "num_samples": 4,
}  # fmt: skip
"""What differs where images are large: a forward pass of one takes seconds."""
_DATA: TypeAdapter[DataSource] = TypeAdapter(DataSettings)


def smoke_overrides(checked: CheckedWorkflow) -> list[str]:
    """The overrides, as `--set` takes them; nodes without data, epochs or anything else to cut are left alone."""
    found = []
    for name in checked.order:
        sweep = checked.sweeps.get(name)
        if sweep is not None:
            found += _of_sweep(sweep)
        else:
            node = checked.loaded.workflow.nodes[name]
            found += [f"{name}.{text}" for text in _of_node(node, checked.specs[name], varied=dict(_listed(node)))]
    return found


def is_complete_data(value: Any) -> bool:
    """Whether a record's `data` say all that reading them takes: where files lie is part of no key, so not of a record."""
    try:
        _DATA.validate_python(value)
    except ValidationError:
        return False
    return True


def _of_sweep(sweep: CheckedSweep) -> list[str]:
    settings, found = sweep.node.sweep, []
    for part, node in sweep.node.nodes.items():
        varied = {key.partition(".")[2]: _ends(each) for key, each in settings.space.items() if key.partition(".")[0] == part}
        found += [f"{sweep.name}.nodes.{part}.{text}" for text in _of_node(node, sweep.specs[part], varied=varied)]
        if "epochs" in varied:
            found.append(f"{sweep.name}.sweep.space.{part}.epochs={_text({'choice': [1]})}")
    trials = NUM_TRIALS if settings.trials is None else min(NUM_TRIALS, settings.trials)
    found.append(f"{sweep.name}.sweep.trials={trials}")
    if settings.sampler.kind in ("pbt", "nsga2"):
        found.append(f"{sweep.name}.sweep.sampler.population={NUM_TRIALS}")
        found.append(f"{sweep.name}.sweep.trials={NUM_TRIALS}")
    if settings.finalists is not None:
        found.append(f"{sweep.name}.sweep.finalists={_text({'top': 1, 'seeds': [settings.finalists.seeds[0]]})}")
    if settings.constraints:
        found.append(f"{sweep.name}.sweep.constraints=[]")
    return found


def _of_node(node: Node, spec: StageSpec, *, varied: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    fields = spec.settings.model_fields
    changes: dict[str, Any] = {}
    small = dict(_SMALL)
    if "data" in node.params and "data" in fields:
        stand_in = _DATA.validate_python(node.params["data"]).stand_in()
        if stand_in is not None:
            changes["data"] = stand_in
            if stand_in.get("height", 0) >= LARGE_PIXELS:
                small |= _SMALL_LARGE_IMAGES
    for name in sorted(small.keys() & fields.keys() - varied.keys()):
        if _is_larger(node.params.get(name, fields[name].get_default()), small[name]):
            changes |= {name: small[name]}
    if "weights" in fields and node.params.get("weights") != "random":  # trained ones know other classes
        changes |= {"weights": "random", "weights_file": None}
    if "epochs" in fields and "epochs" not in varied:
        asked = node.params.get("epochs", fields["epochs"].get_default())
        changes["epochs"] = _fewest_epochs(spec, {**node.params, **changes}, varied, asked)
    if node.params.get("precision") == "float16":  # needs a GPU
        changes["precision"] = "bfloat16"
    if node.params.get("compile"):  # takes minutes
        changes["compile"] = False
    for name, value in changes.items():
        yield f"params.{name}={_text(value)}"
    if node.resources != Resources():  # this machine may have nothing of what they ask for
        yield f"resources={_text({'fresh_process': node.resources.fresh_process})}"


def _fewest_epochs(spec: StageSpec, params: Mapping[str, Any], varied: Mapping[str, Sequence[Any]], asked: Any) -> Any:
    """The fewest epochs that the stage's settings allow: some of them say by which epoch something must have ended."""
    values = islice(product(*varied.values()), MAX_COMBINATIONS)
    combinations = [dict(zip(varied, each, strict=True)) for each in values]
    for epochs in (1, 2, 3, 4, 6, 8, 12, 16):
        try:
            for combination in combinations:
                spec.settings(**{**params, **combination, "epochs": epochs})
        except (ValidationError, TypeError):
            continue
        return epochs
    return asked


def _listed(node: Node) -> Iterator[tuple[str, Sequence[Any]]]:
    """Settings that `foreach` gives, with their values."""
    for key, values in node.foreach.items():
        if key not in node.inputs and not isinstance(values, str):
            yield key, values


def _ends(distribution: Distribution) -> Sequence[Any]:
    """Every choice, or both bounds."""
    return distribution.choice or distribution.uniform or distribution.loguniform or distribution.int or ()


def _is_larger(value: Any, limit: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return list(value) != list(limit)
    return isinstance(value, (int, float)) and value > limit


def _text(value: Any) -> str:
    return json.dumps(value)

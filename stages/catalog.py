"""From a `stage:` name to its description, loading only the settings of that kind: no torch, no scan of the package.

Every kind is a folder `stages/<kind>/` whose `settings.py` lists its methods in `STAGES`. Other packages add kinds through
the entry-point group `orchestrator.stages` (name = kind, value = "package.module:STAGES").
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from stages.contract import Forecast, StageContext, StageResult, StageSettings, StageSpec

KINDS = ("data", "pretrain", "sparsify", "quantize", "compress_tokens", "compress", "finetune", "export", "evaluate", "probe")
"""The kinds shipped here, in the order in which a workflow meets them."""

ENTRY_POINT_GROUP = "orchestrator.stages"


_offered: dict[str, tuple[StageSpec, ...]] = {}


def offer_stages(specs: Sequence[StageSpec]) -> None:
    """Let this process know further stages, as an entry point would: to try a package out before it is installed.

    Raises ValueError for a stage of a kind that is shipped here.
    """
    for spec in specs:
        kind = spec.name.partition(".")[0]
        if kind in KINDS:
            raise ValueError(f'stage {spec.name}: the kind "{kind}" is one of those shipped; name it by a kind of its own')
        _offered[kind] = (*(other for other in _offered.get(kind, ()) if other.name != spec.name), spec)
    kind_stages.cache_clear()


@cache
def kind_stages(kind: str) -> Mapping[str, StageSpec]:
    """Stages of one kind by full name; empty for a kind nobody ships."""
    if kind in _offered:
        specs = _offered[kind]
    elif kind in KINDS:
        specs = importlib.import_module(f"stages.{kind}.settings").STAGES
    else:
        specs = next((point.load() for point in _plugin_kinds() if point.name == kind), ())
    return {spec.name: spec for spec in specs}


def find_stage(name: str) -> StageSpec | None:
    """Description of the stage called `name` ("kind.method"), or None."""
    return kind_stages(name.partition(".")[0]).get(name)


def all_stages() -> dict[str, StageSpec]:
    """Every stage there is, shipped and plugged in; loads every kind's settings."""
    kinds = dict.fromkeys([*KINDS, *(point.name for point in _plugin_kinds()), *_offered])
    return {name: spec for kind in kinds for name, spec in kind_stages(kind).items()}


def load_implementation(spec: StageSpec) -> Callable[[StageContext], StageResult]:
    """Import the stage's function. This is where torch gets loaded."""
    module, _, function = spec.implementation.partition(":")
    loaded: Callable[[StageContext], StageResult] = getattr(importlib.import_module(module), function)
    return loaded


def load_forecast(spec: StageSpec) -> Callable[[StageSettings, Mapping[str, Forecast]], Forecast] | None:
    """Import the stage's forecast, and torch with it; None where it has none."""
    if not spec.forecast:
        return None
    module, _, function = spec.forecast.partition(":")
    loaded: Callable[[StageSettings, Mapping[str, Forecast]], Forecast] = getattr(importlib.import_module(module), function)
    return loaded


@cache
def _plugin_kinds() -> tuple[Any, ...]:
    from importlib.metadata import entry_points  # 10 ms that a workflow of shipped stages never pays

    return tuple(entry_points(group=ENTRY_POINT_GROUP))

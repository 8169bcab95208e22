"""The stage `probe.echo`: writes its value and the keys of its inputs. Imports next to nothing, so it starts at once."""

from __future__ import annotations

import json
from typing import Any

from stages.contract import StageContext, StageResult


def echo(context: StageContext) -> StageResult:
    """Write `value.json` with the settings' value, the seed and the inputs' keys in the workflow's order.

    Source: none: carries no method.
    """
    return write_value(context)


def write_value(context: StageContext, **metrics: Any) -> StageResult:
    """What every probe writes: the value, the seed and the inputs' keys; `metrics` are reported beside them."""
    keys = [artifact.key for artifact in context.many("inputs")]
    content = {"value": context.settings.value, "seed": context.seed, "inputs": keys}
    text = json.dumps(content, sort_keys=True, allow_nan=False) + "\n"
    (context.output / "value.json").write_text(text, encoding="utf-8")
    return StageResult(metrics={"value": context.settings.value, "num_inputs": len(keys), **metrics})

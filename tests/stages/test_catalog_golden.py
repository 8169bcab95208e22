"""Defaults of every stage, as they were when its version was set: a changed default needs a new version.

After a change on purpose: `python -m tests.stages.test_catalog_golden` writes the file anew.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.catalog import all_stages, load_implementation
from stages.contract import StageSpec

GOLDEN = Path(__file__).parent / "golden" / "defaults.json"


def describe(spec: StageSpec) -> dict:
    fields = spec.settings.model_fields
    return {
        "version": spec.version,
        "defaults": {
            name: json.loads(json.dumps(field.get_default(call_default_factory=True), default=lambda value: value.model_dump()))
            for name, field in sorted(fields.items())
            if not field.is_required()
        },
    }


def test_a_changed_default_comes_with_a_new_version():
    """A default is not part of a key: changed alone, old artifacts would be taken for new ones."""
    golden = json.loads(GOLDEN.read_text())
    for name, spec in all_stages().items():
        now, before = describe(spec), golden[name]
        if now["version"] == before["version"]:
            changed = {key for key in before["defaults"] if now["defaults"].get(key, "gone") != before["defaults"][key]}
            assert not changed, f"{name}: changed defaults {changed}; raise the stage's version and write the golden file anew"


@pytest.mark.parametrize("name", sorted(all_stages()))
def test_each_stage_says_what_it_is(name):
    spec = all_stages()[name]
    assert spec.name.partition(".")[0] in spec.implementation
    assert spec.summary
    assert spec.source
    assert spec.metrics
    assert spec.settings.__doc__
    undescribed = [key for key, field in spec.settings.model_fields.items() if not field.description and key != "data"]
    assert not undescribed
    assert callable(load_implementation(spec))


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps({name: describe(spec) for name, spec in sorted(all_stages().items())}, indent=1) + "\n")

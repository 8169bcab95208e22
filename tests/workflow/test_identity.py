"""Keys: what makes an artifact is in them, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from orchestrator.workflow.identity import (
    NotEncodable,
    artifact_identity,
    artifact_key,
    canonical_settings,
    canonical_value,
    encode,
)
from stages.contract import StageSettings, StageSpec

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class One(StageSettings):
    kind: Literal["one"] = "one"
    width: int = 3


class Two(StageSettings):
    kind: Literal["two"] = "two"
    width: int = 3


class Knobs(StageSettings):
    rate: float = 0.1
    name: str = "a"
    part: One | Two = Field(default_factory=One)
    every: int = Field(100, json_schema_extra={"operational": True})


SPEC = StageSpec(name="t.knobs", version=1, summary="", settings=Knobs, implementation="x:y", output="t")


def key(settings: Knobs, *, seed: int = 0, version: int = 1, inputs: dict | None = None) -> str:
    spec = StageSpec(**{**vars(SPEC), "version": version})
    return artifact_key(artifact_identity(spec, settings=settings, seed=seed, inputs=inputs or {}))


@given(JSON)
def test_canonical_values_survive_their_own_encoding(value):
    canonical = canonical_value(value)
    assert canonical_value(json.loads(encode(canonical))) == canonical


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_order_of_a_mapping_changes_nothing(value):
    assert encode(canonical_value(value)) == encode(canonical_value(dict(reversed(value.items()))))


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": [1, float("nan")]}, "a[1]"),
        ({"a": {"b": float("inf")}}, "a.b"),
        ({"f": len}, "f"),
        ({"s": {1, 2}}, "s"),
        ({"b": b"x"}, "b"),
        ({"k": {3: 1}}, "k"),
        ({"o": object()}, "o"),
    ],
)
def test_what_has_no_canonical_form_is_refused_with_its_place(value, place):
    with pytest.raises(NotEncodable, match=rf"^{place.replace('[', chr(92) + '[')}"):
        canonical_value(value)


def test_a_setting_equal_to_its_default_stays_out_of_the_key():
    """Otherwise a new knob would make every old artifact worthless."""
    assert key(Knobs(rate=0.1, name="a", part=One())) == key(Knobs())
    assert canonical_settings(Knobs(name="b")) == {"name": "b"}


def test_operational_settings_do_not_reach_the_key():
    assert key(Knobs(every=7)) == key(Knobs())


def test_alternatives_of_a_union_are_told_apart_even_with_equal_fields():
    assert key(Knobs(part=One(width=4))) != key(Knobs(part=Two(width=4)))
    assert key(Knobs(part=Two())) != key(Knobs())


@pytest.mark.parametrize(
    "other",
    [
        key(Knobs(rate=0.2)),
        key(Knobs(), seed=1),
        key(Knobs(), version=2),
        key(Knobs(), inputs={"model": "a" * 32}),
        key(Knobs(), inputs={"model": ["a" * 32]}),
    ],
)
def test_each_ingredient_changes_the_key(other):
    assert other != key(Knobs())


def test_minus_zero_and_zero_are_one_value():
    assert encode(canonical_value(-0.0)) == encode(canonical_value(0.0))


def test_keys_are_equal_in_processes_with_other_hash_seeds():
    """A key made on one machine must be found from another."""
    code = (
        "from stages.catalog import find_stage\n"
        "from orchestrator.workflow.identity import *\n"
        "s = find_stage('pretrain.classifier')\n"
        "v = s.settings(model='vit_micro', data='digits', epochs=3, model_args={'b': 1, 'a': {'d': 2.5, 'c': None}})\n"
        "print(artifact_key(artifact_identity(s, settings=v, seed=1, inputs={'z': 'k', 'a': ['l', 'm']})))"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2", "77")
    }
    assert len(keys) == 1


def test_several_workers_are_in_the_key_and_one_is_not():
    """Which images a batch norm sees together, and what dropout draws, follow from their number; artifacts of one stay hits."""
    settings = Knobs()
    plain = artifact_identity(SPEC, settings=settings, seed=0, inputs={})
    assert artifact_identity(SPEC, settings=settings, seed=0, inputs={}, workers=1) == plain
    assert "workers" not in plain
    keys = {artifact_key(artifact_identity(SPEC, settings=settings, seed=0, inputs={}, workers=count)) for count in (1, 2, 4)}
    assert len(keys) == 3

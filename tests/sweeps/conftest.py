"""Whole searches: the stage `probe.sleep` trains without waiting, and each run is told as a story."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator import api
from orchestrator.workflow.check import check_workflow
from orchestrator.workflow.load import load_text
from sweeps.search_kit import Story, train

sys.path.append(str(Path(__file__).parents[1] / "engine"))  # virtual.py


@pytest.fixture
def search(folder, monkeypatch) -> Callable[..., Story]:
    """Submit YAML text inline against the store of a name, with the training stage in place."""
    monkeypatch.setattr("stages.probe.sleep.sleep", train)

    def submit(text: str, *, store: str = "store", selection=None, overrides=(), **options) -> Story:
        workspace = api.open_workspace(str(folder / store))
        checked = check_workflow(load_text(text, file="w.yaml", overrides=overrides))
        plan = api.plan_checked(checked, workspace=workspace, selection=selection)
        return Story(api.submit(plan, workspace=workspace, **{"executor": "inline", **options}), workspace, plan)

    return submit

"""Both parsers of the library, stages made for tests, and a store that stays empty."""

from __future__ import annotations

import pytest
import yaml
from toy_stages import TOYS
from toy_sweep import TOYS as SWEEP_TOYS

from orchestrator import api
from orchestrator.workflow import yaml12
from stages import catalog


@pytest.fixture(params=["c", "python"])
def parser(request, monkeypatch):
    """Both parsers of the library: the C one may be absent on a user's machine."""
    if request.param == "c" and not hasattr(yaml, "CSafeLoader"):
        pytest.skip("libyaml is not there")
    monkeypatch.setattr(yaml12, "_Parser", yaml.CSafeLoader if request.param == "c" else yaml.SafeLoader)


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> api.Workspace:
    """A store that stays empty: planning writes nothing."""
    return api.open_workspace(str(tmp_path_factory.mktemp("empty") / "store"))


@pytest.fixture
def toys(monkeypatch):
    """Stages made for these tests, so that the real ones may change."""
    monkeypatch.setattr(catalog, "find_stage", TOYS.get)
    monkeypatch.setattr(catalog, "all_stages", lambda: dict(TOYS))


@pytest.fixture
def sweep_toys(monkeypatch):
    """The same for tests of sweeps."""
    monkeypatch.setattr(catalog, "find_stage", SWEEP_TOYS.get)
    monkeypatch.setattr(catalog, "all_stages", lambda: dict(SWEEP_TOYS))

"""A small Vision Transformer on digits, and the joint run of all three methods on it, made once for all tests here."""

from __future__ import annotations

import pytest
import torch

from stages.compress import joint
from tests.stages.compress.support import ALL, trained_bundle
from tests.stages.stage_calls import artifact_of, context_in, saved

torch.set_num_threads(1)  # beside other work, more of them wait for each other most of the time


@pytest.fixture(scope="session")
def dense(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    return saved(trained_bundle(folder), folder / "model")


@pytest.fixture(scope="session")
def joint_run(dense, tmp_path_factory):
    """(what the stage handed back, its artifact) of LBC, LTS and DiffRate together."""
    folder = tmp_path_factory.mktemp("joint")
    result = joint.run(context_in(folder, ALL, model=dense))
    return result, artifact_of(folder / "output")

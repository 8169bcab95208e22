"""One thread for these tests, and one small denoiser that they share."""

from __future__ import annotations

import pytest
import torch

from stages.contract import Artifact, StageResult
from stages.pretrain import training
from stages.pretrain.diffusion_settings import TINY_DENOISER, DiffusionSettings
from tests.stages.stage_calls import artifact_of, context_in

torch.set_num_threads(1)

DIGITS = {"name": "digits", "scaling": "symmetric"}


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> tuple[StageResult, Artifact]:
    """A tiny U-Net trained on 8x8 digits for three epochs."""
    folder = tmp_path_factory.mktemp("denoiser")
    result = training.run(context_in(folder, DiffusionSettings(**{**TINY_DENOISER, "epochs": 3})))
    return result, artifact_of(folder / "output")


@pytest.fixture
def denoiser(trained) -> Artifact:
    return trained[1]

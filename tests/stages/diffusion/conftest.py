"""One thread for these tests, and one small denoiser that they share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stages.contract import Artifact, StageContext, StageResult, local_context
from stages.pretrain import training
from stages.pretrain.diffusion_settings import TINY_DENOISER, DiffusionSettings

torch.set_num_threads(1)

DIGITS = {"name": "digits", "scaling": "symmetric"}


def context_in(folder: Path, settings, **inputs) -> StageContext:
    return replace(local_context(settings, folder=folder, inputs=inputs), num_threads=1)


def artifact_of(folder: Path, kind: str = "model") -> Artifact:
    return Artifact(kind=kind, key="0" * 64, files={path.name: path for path in folder.iterdir()})


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> tuple[StageResult, Artifact]:
    """A tiny U-Net trained on 8x8 digits for three epochs."""
    folder = tmp_path_factory.mktemp("denoiser")
    result = training.run(context_in(folder, DiffusionSettings(**{**TINY_DENOISER, "epochs": 3})))
    return result, artifact_of(folder / "output")


@pytest.fixture
def denoiser(trained) -> Artifact:
    return trained[1]

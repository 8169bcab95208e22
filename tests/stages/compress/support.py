"""What the tests of this folder share: contexts, artifacts, a model, and the settings of the joint run."""

from __future__ import annotations

from pathlib import Path

import torch

from stages.compress.settings import JointSettings
from stages.contract import Artifact
from stages.data.base import load_dataset
from stages.data.settings import DigitsData
from stages.models.bundle import ModelBundle, build_bundle
from stages.models.zoo import find_architecture
from stages.training.loop import train
from stages.training.settings import TrainingSettings
from tests.stages.stage_calls import context_in

LTS = {
    "weight_bits": 4,
    "activation_bits": 8,
    "bounds_init": "least_squares",
    "distance_momentum": 0.9,
    "bound_learning_rate": 1e-3,
}
RATES = {"gmacs_ratio": 0.75, "granularity": 1, "rate_learning_rate": 0.1, "budget_weight": 1000}
ALL = JointSettings(data="digits", epochs=6, lbc={"n_m": "2:4"}, lts=LTS, diffrate=RATES)


def weights(artifact: Artifact) -> bytes:
    return artifact.file("weights.safetensors").read_bytes()


def new_bundle(name: str = "vit_micro") -> ModelBundle:
    arguments = {"depth": 3, "embed_dim": 32} if name == "vit_micro" else {}
    data = load_dataset(DigitsData())
    return build_bundle(find_architecture(name, arguments, input_spec=data.input_spec, class_names=data.class_names), seed=0)


def trained_bundle(folder: Path) -> ModelBundle:
    bundle, settings = new_bundle(), TrainingSettings(data="digits", epochs=8)
    train(bundle.model, data=load_dataset(settings.data), settings=settings, context=context_in(folder / "run", settings))
    return bundle


def digit_images(count: int = 64) -> torch.Tensor:
    return next(iter(load_dataset(DigitsData()).test.batches(batch_size=count))).images

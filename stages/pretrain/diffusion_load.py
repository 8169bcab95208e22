"""The stage `pretrain.load_diffusion`: take a denoiser as it is, and measure it."""

from __future__ import annotations

from pathlib import Path

from stages.contract import StageContext, StageResult
from stages.data.base import load_stage_data
from stages.models.bundle import build_bundle
from stages.models.diffusion_pipeline import load_pipeline
from stages.ops.diffusion_folder import find_pipeline
from stages.ops.seeding import prepare_process
from stages.ops.seeds import derive_seed
from stages.pretrain.architectures import architecture_of
from stages.pretrain.diffusion_settings import LoadDiffusionSettings
from stages.pretrain.load import deliver_loaded


def load_diffusion(context: StageContext) -> StageResult:
    """Take the denoiser of a diffusers pipeline folder, or one with initial weights.

    Raises:
        ValueError: the folder is no such pipeline, its network draws other images than the data have, or a file is damaged.
    """
    prepare_process(context)
    settings = context.settings
    assert isinstance(settings, LoadDiffusionSettings)
    data = load_stage_data(context)
    if settings.pipeline is not None:
        bundle = load_pipeline(
            find_pipeline(Path(settings.pipeline)),
            input_spec=data.input_spec,
            class_names=data.class_names,
            label_dropout=settings.label_dropout,
        )
    else:
        bundle = build_bundle(architecture_of(settings, data), seed=derive_seed(context.seed, "weights"))
    return deliver_loaded(bundle, data=data, context=context)

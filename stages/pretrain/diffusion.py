"""The stage `pretrain.diffusion`: build a denoiser with its noise schedule, train it, hand it out.

Source: Ho, Jain, Abbeel 2020, arXiv 2006.11239 (the loss, the linear schedule); Nichol and Dhariwal 2021, arXiv 2102.09672 (the
cosine schedule); Peebles and Xie 2022, arXiv 2212.09748 (DiT). Networks and schedules are those of diffusers.
"""

from __future__ import annotations

from stages.contract import StageContext, StageResult
from stages.data.base import load_stage_data
from stages.models.bundle import build_bundle
from stages.models.denoisers import find_denoiser
from stages.ops.seeds import derive_seed
from stages.pretrain.diffusion_settings import DiffusionSettings
from stages.training.loop import train
from stages.training.model_artifact import deliver_model
from stages.training.seeding import prepare_process
from stages.training.tasks.base import task_of


def pretrain_diffusion(context: StageContext) -> StageResult:
    """Train a denoiser from its initial weights.

    Raises:
        ValueError: the model is unknown, does not fit the images, or a setting does not fit the data.
        TrainingDiverged: the loss or a weight stopped being finite.
    """
    prepare_process(context)
    settings = context.settings
    assert isinstance(settings, DiffusionSettings)
    data = load_stage_data(context)
    architecture = find_denoiser(
        settings.model,
        settings.model_args,
        input_spec=data.input_spec,
        num_timesteps=settings.num_timesteps,
        schedule=settings.noise_schedule,
    )
    bundle = build_bundle(architecture, seed=derive_seed(context.seed, "weights"))
    report = train(bundle.model, data=data, settings=settings, context=context, compiles=settings.compile, task=task_of(bundle))
    return deliver_model(bundle, context=context, report=report)

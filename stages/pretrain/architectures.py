"""Which network the settings of a stage of this kind name: for the stage that builds it, and for its forecast."""

from __future__ import annotations

from stages.contract import StageSettings
from stages.data.base import Dataset
from stages.models.bundle import Architecture
from stages.models.denoisers import find_denoiser
from stages.models.restorers import find_restorer
from stages.models.zoo import find_architecture
from stages.pretrain.diffusion_settings import DiffusionSettings, LoadDiffusionSettings
from stages.pretrain.restoration_settings import RestorationSettings
from stages.pretrain.settings import ClassifierSettings, LoadSettings


def architecture_of(settings: StageSettings, data: Dataset) -> Architecture:
    """The architecture, for the images and the classes of the data.

    Raises:
        ValueError: the model is unknown, or does not fit the images.
    """
    if isinstance(settings, DiffusionSettings | LoadDiffusionSettings):
        assert settings.model is not None
        return find_denoiser(
            settings.model,
            settings.model_args,
            input_spec=data.input_spec,
            num_timesteps=settings.num_timesteps,
            schedule=settings.noise_schedule,
            class_names=data.class_names if settings.class_conditional else (),
            label_dropout=settings.label_dropout,
        )
    if isinstance(settings, RestorationSettings):
        return find_restorer(settings.model, settings.model_args, input_spec=data.input_spec, scale=settings.scale)
    assert isinstance(settings, ClassifierSettings | LoadSettings)
    return find_architecture(settings.model, settings.model_args, input_spec=data.input_spec, class_names=data.class_names)

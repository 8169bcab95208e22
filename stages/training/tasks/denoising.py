"""The task of diffusion models: tell the noise that was mixed into an image, measured by the squared error.

    x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e,   e ~ N(0, 1),   t uniform over the schedule's timesteps;
    loss = mean (model(x_t, t) - e)^2

with a_t the cumulative product of 1 - beta. Schedules whose `prediction_type` is another want x_0 or the velocity instead.
A model that draws by class is told the label too; in training a share of the labels (`Denoiser.label_dropout`) is replaced by
"no class", so that one network learns both what guidance needs.

Source: Ho, Jain, Abbeel 2020, arXiv 2006.11239, algorithm 1 and equation 14; Ho and Salimans 2022, arXiv 2207.12598,
algorithm 1 (labels left out); noise by diffusers' DDPMScheduler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.data.base import Batch, Split
from stages.models.denoisers import Denoiser
from stages.ops.seeds import derive_seed
from stages.training.settings import TrainingSettings
from stages.training.tasks.base import Objective, Score

BATCH_SIZE = 256


class Denoising:
    """(B, channels, H, W) noisy images, (B,) timesteps, by class also (B,) labels -> prediction (B, channels, H, W)."""

    name = "denoising"
    metric = "noise_mse"

    def objective(self, model: nn.Module, settings: TrainingSettings) -> Objective:
        """Mean squared error of the prediction; timesteps, noise and labels left out are drawn anew at every step."""
        if "label_smoothing" in settings.model_fields_set and settings.label_smoothing:
            raise ValueError(f"label_smoothing is {settings.label_smoothing}, but denoising knows no labels; leave it out")
        scheduler, denoiser = scheduler_of(model), denoiser_of(model)

        def objective(forward: Callable[..., Tensor], images: Tensor, labels: Tensor) -> Tensor:
            timesteps, noise = _draw(images, scheduler)
            noisy = scheduler.add_noise(images, noise, timesteps)
            wanted = target_of(scheduler, images, noise, timesteps)
            classes = (leave_out(denoiser, labels),) if denoiser.num_classes else ()
            return functional.mse_loss(forward(noisy, timesteps, *classes).float(), wanted)

        return objective

    def inputs(self, model: nn.Module, batch: Batch, *, seed: int) -> tuple[Tensor, ...]:
        """The images at timesteps spread evenly over the schedule, in an order and with noise that follow from the seed.

        A model that draws by class is told the labels, without the share that training leaves out.
        """
        scheduler, images = scheduler_of(model), batch.images
        generator = torch.Generator().manual_seed(derive_seed(seed, "timesteps"))
        spread = torch.linspace(0, scheduler.config.num_train_timesteps - 1, len(images)).round().long()
        timesteps = spread[torch.randperm(len(images), generator=generator)].to(images.device)
        noise = torch.randn(images.shape, generator=generator).to(images)
        noisy = scheduler.add_noise(images, noise, timesteps)
        if not denoiser_of(model).num_classes:
            return noisy, timesteps
        return noisy, timesteps, leave_out(denoiser_of(model), batch.labels, generator=generator)

    def evaluate(self, model: nn.Module, split: Split, *, device: str | torch.device = "cpu") -> Score:
        """Mean squared error; every model is measured on the same timesteps and noise, whatever the seed of its node."""
        scheduler, was_training = scheduler_of(model), model.training
        model.eval()
        total, count = 0.0, 0
        with torch.no_grad():
            for number, batch in enumerate(split.batches(batch_size=BATCH_SIZE)):
                generator = torch.Generator().manual_seed(derive_seed(0, "noise", number))
                timesteps, noise = _draw(batch.images, scheduler, generator=generator)
                noisy = scheduler.add_noise(batch.images, noise, timesteps)
                wanted = target_of(scheduler, batch.images, noise, timesteps)
                classes = (batch.labels.to(device),) if denoiser_of(model).num_classes else ()
                predicted = model(noisy.to(device), timesteps.to(device), *classes).cpu()
                total += float((predicted - wanted).square().flatten(1).mean(dim=1).double().sum())
                count += len(wanted)
        model.train(was_training)
        return Score(metric=self.metric, total=total, count=count)


TASK = Denoising()


def denoiser_of(model: nn.Module) -> Denoiser:
    """A model for denoising as what it is."""
    assert isinstance(model, Denoiser)
    return model


def scheduler_of(model: nn.Module) -> Any:
    """The noise schedule (diffusers' DDPMScheduler) of a model for denoising."""
    return model.scheduler


def leave_out(denoiser: Denoiser, labels: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """The labels (B,), of which the model's `label_dropout` becomes "no class"; from torch's own generator if none is given.

    Raises:
        ValueError: labels are mixed, as mixup and CutMix make them.
    """
    if labels.ndim != 1:
        raise ValueError("mixup and CutMix mix labels, but a denoiser that draws by class takes one; leave them out of augment")
    if denoiser.no_class is None or not denoiser.label_dropout:
        return labels
    device = labels.device if generator is None else generator.device
    is_left_out = torch.rand(len(labels), generator=generator, device=device).to(labels.device) < denoiser.label_dropout
    return torch.where(is_left_out, denoiser.no_class, labels)


def target_of(scheduler: Any, images: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the model is to predict: the noise, the image, or the velocity sqrt(a_t) e - sqrt(1 - a_t) x_0."""
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "sample":
        return images
    velocity: Tensor = scheduler.get_velocity(images, noise, timesteps)
    return velocity


def _draw(images: Tensor, scheduler: Any, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """A timestep for every image, and noise of its shape; from torch's own generator where none is given."""
    device = images.device if generator is None else generator.device
    number = int(scheduler.config.num_train_timesteps)
    timesteps = torch.randint(number, (len(images),), generator=generator, device=device).to(images.device)
    noise = torch.randn(images.shape, generator=generator, device=device).to(images)
    return timesteps, noise

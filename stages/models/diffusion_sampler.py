"""Drawing images with a denoiser: from noise, step by step back through its schedule, in torch or from an exported file.

Knows diffusers' samplers; knows no stage and no data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import stages.ops.torchvision_compat  # noqa: F401 - diffusers does not import without it
from stages.ops.autoencoder import decode_latents
from stages.ops.onnx_file import open_session, run_session
from stages.ops.seeds import derive_seed

Sampler = Literal["ddim", "ddpm"]
Predict = Callable[..., Tensor]
"""(noisy images, timesteps), and labels of a model that draws by class -> prediction."""


def sample_images(
    predict: Predict,
    *,
    scheduler: Any,
    shape: tuple[int, int, int],
    num_images: int,
    num_steps: int,
    sampler: Sampler = "ddim",
    seed: int = 0,
    labels: Tensor | None = None,
    no_class: int | None = None,
    guidance_scale: float = 1.0,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    on_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """Draw images; the same seed gives the same noise to start from, whatever the batch size.

    Args:
        predict: the model.
        scheduler: diffusers' DDPMScheduler of the model: its noise and what it predicts.
        shape: (channels, height, width).
        num_images: how many.
        num_steps: evaluations of the model for each image.
        sampler: ddim: deterministic (eta 0), good with few steps; ddpm: new noise at each step.
        seed: of all noise.
        labels: (num_images,) int64, of a model that draws by class.
        no_class: the model's label for "no class".
        guidance_scale: s in p(no class) + s (p(class) - p(no class)); 1: the prediction for the class, and half the work.
        batch_size: images at a time.
        device: of the model.
        on_step: called before each evaluation; what it raises stops the sampling.

    Returns:
        (num_images, channels, height, width) in the scaling that the model was trained in, on the CPU.

    Raises:
        ValueError: more steps than the schedule has timesteps, or guidance of a model that knows no classes or no "no class".

    Source: ddim: Song, Meng, Ermon 2020, arXiv 2010.02502; ddpm: Ho, Jain, Abbeel 2020, arXiv 2006.11239, algorithm 2;
    guidance: Ho and Salimans 2022, arXiv 2207.12598, equation 6, with s = 1 + w.
    """
    from diffusers import DDIMScheduler, DDPMScheduler

    length = int(scheduler.config.num_train_timesteps)
    if not 1 <= num_steps <= length:
        raise ValueError(f"{num_steps} steps; the model's schedule has {length} timesteps")
    if guidance_scale != 1 and (labels is None or no_class is None):
        found = "draws without classes" if labels is None else 'has no "no class", which training with label_dropout gives'
        raise ValueError(f"guidance_scale is {guidance_scale}, but the model {found}; leave it at 1")
    kind = DDIMScheduler if sampler == "ddim" else DDPMScheduler
    # Guidance pushes values out of the range that they are clipped to. The noise has to follow from the clipped ones then, or
    # what is clipped and what is kept of the noise drift apart.
    more = {"use_clipped_model_output": True} if sampler == "ddim" and guidance_scale != 1 else {}
    start = torch.randn(num_images, *shape, generator=torch.Generator().manual_seed(derive_seed(seed, "start")))
    drawn: list[Tensor] = []

    def predict_guided(images: Tensor, times: Tensor, *classes: Tensor) -> Tensor:
        predicted = predict(images, times, *classes)
        if guidance_scale == 1:
            return predicted
        free = predict(images, times, torch.full_like(classes[0], no_class))  # type: ignore[arg-type]
        return free + guidance_scale * (predicted - free)

    for number, noise in enumerate(torch.split(start, batch_size)):
        images = noise
        told = () if labels is None else (labels[batch_size * number :][: len(noise)].to(device),)
        steps = kind.from_config(scheduler.config)
        steps.set_timesteps(num_steps)
        generator = torch.Generator().manual_seed(derive_seed(seed, "steps", number))
        for timestep in steps.timesteps:
            on_step()
            times = torch.full((len(images),), int(timestep), dtype=torch.int64, device=device)
            with torch.no_grad():
                predicted = predict_guided(images.to(device), times, *told).cpu()
            images = steps.step(predicted, int(timestep), images, generator=generator, **more).prev_sample
        drawn.append(images)
    return torch.cat(drawn)


def sample_from_onnx(
    folder: Path,
    *,
    num_images: int,
    num_steps: int = 25,
    sampler: Sampler = "ddim",
    seed: int = 0,
    labels: Sequence[int] | None = None,
    guidance_scale: float = 1.0,
    autoencoder: Path | None = None,
    num_threads: int = 1,
) -> Tensor:
    """Draw images with the file that `export.onnx` wrote of a denoiser, by onnxruntime; values in [0, 1].

    Of a model that draws latents these are given, whatever their range, or the images where there is an autoencoder.

    Args:
        folder: with `model.onnx` and `export.json`.
        num_images: how many.
        num_steps: see `sample_images`.
        sampler: see `sample_images`.
        seed: see `sample_images`.
        labels: of a model that draws by class: one for each image; none: all classes in turn.
        guidance_scale: see `sample_images`.
        autoencoder: of a model that draws latents: folder of the diffusers pipeline whose autoencoder decodes them.
        num_threads: of onnxruntime.

    Raises:
        ValueError: the folder has no export of a denoiser, or labels or autoencoder do not fit the model.
    """
    from diffusers import DDPMScheduler

    path = folder / "export.json"
    description = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "scheduler" not in description:
        raise ValueError(f"{folder} has no export of a denoiser; expected an artifact of export.onnx, made of one")
    session = open_session(folder / description["file"], num_threads=num_threads)
    scaling = description["input"]["normalization"]
    are_latents = scaling["pixel_range"] is None
    if autoencoder is not None and not are_latents:
        raise ValueError(f"{folder}: the model draws pixels; leave autoencoder out")
    classes = description.get("labels")
    images = sample_images(
        lambda *inputs: run_session(session, *inputs),
        scheduler=DDPMScheduler(**description["scheduler"]),
        shape=tuple(description["input"]["shape"][1:]),
        num_images=num_images,
        num_steps=num_steps,
        sampler=sampler,
        seed=seed,
        labels=_asked_labels(labels, classes, num_images=num_images),
        no_class=classes and classes["no_class"],
        guidance_scale=guidance_scale,
        batch_size=64 if description["dynamic_batch"] else 1,
    )
    if are_latents:
        return images if autoencoder is None else decode_latents(autoencoder, images)
    mean, std = (torch.tensor(scaling[name]).reshape(1, -1, 1, 1) for name in ("mean", "std"))
    return (images * std + mean).clamp(0, 1)


def even_labels(num_images: int, num_classes: int) -> Tensor:
    """All classes in turn, (num_images,) int64."""
    return torch.arange(num_images) % num_classes


def _asked_labels(labels: Sequence[int] | None, classes: Mapping[str, Any] | None, *, num_images: int) -> Tensor | None:
    if classes is None:
        if labels is not None:
            raise ValueError("the model draws without classes; leave labels out")
        return None
    number = len(classes["classes"])
    if labels is None:
        return even_labels(num_images, number)
    if len(labels) != num_images or not all(0 <= label < number for label in labels):
        raise ValueError(f"expected {num_images} labels from 0 to {number - 1}, one for each image; found {list(labels)[:10]}")
    return torch.tensor(labels, dtype=torch.int64)

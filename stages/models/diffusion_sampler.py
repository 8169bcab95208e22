"""Drawing images with a denoiser: from noise, step by step back through its schedule, in torch or from an exported file.

Knows diffusers' samplers; knows no stage and no data.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import stages.ops.torchvision_compat  # noqa: F401 - diffusers does not import without it
from stages.ops.onnx_file import open_session, run_session
from stages.ops.seeds import derive_seed

Sampler = Literal["ddim", "ddpm"]
Predict = Callable[[Tensor, Tensor], Tensor]
"""(noisy images, timesteps) -> prediction."""


def sample_images(
    predict: Predict,
    *,
    scheduler: Any,
    shape: tuple[int, int, int],
    num_images: int,
    num_steps: int,
    sampler: Sampler = "ddim",
    seed: int = 0,
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
        batch_size: images at a time.
        device: of the model.
        on_step: called before each evaluation; what it raises stops the sampling.

    Returns:
        (num_images, channels, height, width) in the scaling that the model was trained in, on the CPU.

    Raises:
        ValueError: more steps than the schedule has timesteps.

    Source: ddim: Song, Meng, Ermon 2020, arXiv 2010.02502; ddpm: Ho, Jain, Abbeel 2020, arXiv 2006.11239, algorithm 2.
    """
    from diffusers import DDIMScheduler, DDPMScheduler

    length = int(scheduler.config.num_train_timesteps)
    if not 1 <= num_steps <= length:
        raise ValueError(f"{num_steps} steps; the model's schedule has {length} timesteps")
    kind = DDIMScheduler if sampler == "ddim" else DDPMScheduler
    start = torch.randn(num_images, *shape, generator=torch.Generator().manual_seed(derive_seed(seed, "start")))
    drawn: list[Tensor] = []
    for number, noise in enumerate(torch.split(start, batch_size)):
        images = noise
        steps = kind.from_config(scheduler.config)
        steps.set_timesteps(num_steps)
        generator = torch.Generator().manual_seed(derive_seed(seed, "steps", number))
        for timestep in steps.timesteps:
            on_step()
            times = torch.full((len(images),), int(timestep), dtype=torch.int64, device=device)
            with torch.no_grad():
                predicted = predict(images.to(device), times).cpu()
            images = steps.step(predicted, int(timestep), images, generator=generator).prev_sample
        drawn.append(images)
    return torch.cat(drawn)


def sample_from_onnx(
    folder: Path, *, num_images: int, num_steps: int = 25, sampler: Sampler = "ddim", seed: int = 0, num_threads: int = 1
) -> Tensor:
    """Draw images with the file that `export.onnx` wrote of a denoiser, by onnxruntime; values in [0, 1].

    Args:
        folder: with `model.onnx` and `export.json`.
        num_images: how many.
        num_steps: see `sample_images`.
        sampler: see `sample_images`.
        seed: see `sample_images`.
        num_threads: of onnxruntime.

    Raises:
        ValueError: the folder has no export of a denoiser.
    """
    from diffusers import DDPMScheduler

    path = folder / "export.json"
    description = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "scheduler" not in description:
        raise ValueError(f"{folder} has no export of a denoiser; expected an artifact of export.onnx, made of one")
    session = open_session(folder / description["file"], num_threads=num_threads)
    scaling = description["input"]["normalization"]
    images = sample_images(
        lambda noisy, timesteps: run_session(session, noisy, timesteps),
        scheduler=DDPMScheduler(**description["scheduler"]),
        shape=tuple(description["input"]["shape"][1:]),
        num_images=num_images,
        num_steps=num_steps,
        sampler=sampler,
        seed=seed,
        batch_size=64 if description["dynamic_batch"] else 1,
    )
    mean, std = (torch.tensor(scaling[name]).reshape(1, -1, 1, 1) for name in ("mean", "std"))
    return (images * std + mean).clamp(0, 1)

"""The stage `evaluate.diffusion`: what images a denoiser draws, how near they are to real ones, and what they cost.

Nearness is the Fréchet distance in the feature space of a classifier that the workflow trained on the same data: the input of
its last linear layer. It means something beside other distances from the same classifier and number of samples, and nothing
beside published ones, which are taken in the features of another network. A model that draws by class is asked for all classes
in turn; how many of its images the classifier puts into the class that was asked for is counted. Latents are decoded before
anybody looks at them, in parts, so that the images are never held all at once.
"""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stages.contract import StageContext, StageResult
from stages.data.base import Split, load_stage_data
from stages.data.latents import encoded
from stages.data.settings import autoencoder_identity
from stages.evaluate.diffusion_settings import DiffusionSettings
from stages.evaluate.grid import write_grid
from stages.evaluate.subject import open_subject
from stages.models.diffusion_sampler import even_labels, sample_images
from stages.models.measures import measure_model, model_digest
from stages.ops.autoencoder import Autoencoder, open_autoencoder
from stages.ops.frechet import frechet_distance
from stages.ops.seeding import prepare_process
from stages.training.model_artifact import receive_model
from stages.training.tasks.base import task_of
from stages.training.tasks.denoising import denoiser_of

GRID_FILE = "samples.png"


def run(context: StageContext) -> StageResult:
    """Draw, measure, and write `evaluation.json` and `samples.png`.

    With an exported file, images are drawn by onnxruntime from it and `size_bytes` is the file's; with a packed file, by the
    model that it holds, and `size_bytes` is the file's; else by the model, with the bytes of its plain tensors.

    Raises:
        ValueError: model, classifier, file and data do not fit together.
    """
    settings = context.settings
    assert isinstance(settings, DiffusionSettings)
    device = prepare_process(context)
    data = load_stage_data(context)
    if data.input_spec.are_latents:
        raise ValueError(
            "evaluate.diffusion: the data are latents; name the images that they were made of, and set autoencoder"
        )
    autoencoder = None
    if settings.autoencoder is not None:
        autoencoder = open_autoencoder(Path(settings.autoencoder), pixels=data.input_spec, device=device)
    drawn_data = data if autoencoder is None else encoded(data, autoencoder)
    bundle = receive_model(context, drawn_data, takes="denoising")
    classifier = receive_model(context, data, port="classifier").model.to(device)
    predict, size_bytes, size_of = open_subject(bundle, context, device=device, stage="evaluate.diffusion")
    model = denoiser_of(bundle.model)
    labels = even_labels(settings.num_samples, model.num_classes) if model.num_classes else None
    begin = time.monotonic()
    drawn = sample_images(
        predict,
        scheduler=model.scheduler,
        shape=drawn_data.input_spec.shape,
        num_images=settings.num_samples,
        num_steps=settings.num_steps,
        sampler=settings.sampler,
        seed=context.seed,
        labels=labels,
        no_class=model.no_class,
        guidance_scale=settings.guidance_scale,
        batch_size=settings.batch_size,
        device=device,
        on_step=context.check_cancelled,
    )
    seconds = time.monotonic() - begin
    if not bool(torch.isfinite(drawn).all()):
        raise ValueError("evaluate.diffusion: the model drew images that hold NaN or infinity")
    examined = copy.copy(bundle.model.to(device))
    if context.optional_input("exported") is not None:
        examined.forward = predict  # the task asks a model; the error is to be the file's
    real = _split_features(classifier, data.train, device=device)
    looked = _look(drawn, autoencoder, classifier, num_shown=settings.grid_side**2, context=context, device=device)
    seen, shown = looked.seen, looked.shown
    metrics: dict[str, Any] = {
        "frechet_distance": frechet_distance(seen.features, real),
        "frechet_distance_real": frechet_distance(_split_features(classifier, data.test, device=device), real),
        "noise_mse": task_of(bundle).evaluate(examined, drawn_data.test, device=device).value,
        "num_samples": settings.num_samples,
        "num_steps": settings.num_steps,
        **measure_model(bundle),
        "size_bytes": size_bytes,
    }
    if labels is not None:
        metrics["class_accuracy"] = float((seen.classes == labels).double().mean())
        shown = shown[torch.argsort(labels[: len(shown)], stable=True)]
    write_grid(shown, context.output / GRID_FILE, spec=data.input_spec, columns=settings.grid_side)
    description = {
        "format": 1,
        "metrics": metrics,
        "data": data.identity or settings.data.identity(),
        "architecture": bundle.architecture.name,
        "transforms": [spec.name for spec in bundle.transforms],
        "size_of": size_of,
        "sampler": settings.sampler,
        "seed": context.seed,
        "classifier": model_digest(context.input("classifier")),
        **({} if labels is None else {"guidance_scale": settings.guidance_scale}),
        **({} if settings.autoencoder is None else {"autoencoder": autoencoder_identity(settings.autoencoder)}),
    }
    text = json.dumps(description, indent=2, sort_keys=True, allow_nan=False) + "\n"
    (context.output / "evaluation.json").write_text(text, encoding="utf-8")
    measurements = {"seconds_per_image": seconds / settings.num_samples}
    if autoencoder is not None:
        measurements["decoding_seconds_per_image"] = looked.decoding_seconds / settings.num_samples
    return StageResult(metrics=metrics, measurements=measurements)


class Seen(NamedTuple):
    """What a classifier makes of images: features (N, F) that its last linear layer sees, classes (N,) that it finds."""

    features: Tensor
    classes: Tensor


class _Looked(NamedTuple):
    """What the classifier makes of drawn images, the first of them, and how long their decoding took, in seconds."""

    seen: Seen
    shown: Tensor
    decoding_seconds: float


def _look(
    drawn: Tensor,
    autoencoder: Autoencoder | None,
    classifier: nn.Module,
    *,
    num_shown: int,
    context: StageContext,
    device: torch.device,
) -> _Looked:
    """Show drawn images to the classifier part by part, decoded first where they are latents."""
    seen: list[Seen] = []
    shown: list[Tensor] = []
    seconds = 0.0
    for part in torch.split(drawn, 256 if autoencoder is None else autoencoder.num_at_once):
        context.check_cancelled()
        begin = time.monotonic()
        images = part if autoencoder is None else autoencoder.decode(part)
        seconds += time.monotonic() - begin
        seen.append(see_images(classifier, images, device=device))
        if sum(map(len, shown)) < num_shown:
            shown.append(images)
    features, classes = (torch.cat(parts) for parts in zip(*seen, strict=True))
    return _Looked(Seen(features, classes), torch.cat(shown)[:num_shown], seconds)


def see_images(classifier: nn.Module, images: Tensor, *, device: str | torch.device = "cpu", batch_size: int = 256) -> Seen:
    """Run the classifier on the images.

    Raises:
        ValueError: the classifier has no linear layer that sees one vector for each image.
    """
    seen: list[Tensor] = []
    layers = [module for module in classifier.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError("evaluate.diffusion: the classifier has no linear layer whose inputs could be features")
    handle = layers[-1].register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0].cpu()))
    try:
        with torch.no_grad():
            parts = torch.split(images, batch_size)
            classes = torch.cat([classifier(part.to(device)).argmax(dim=1).cpu() for part in parts])
    finally:
        handle.remove()
    features = torch.cat(seen)
    if features.ndim != 2 or len(features) != len(images):
        raise ValueError(
            f"evaluate.diffusion: the classifier's last linear layer sees {tuple(features.shape)} for {len(images)} images; "
            "expected one vector for each"
        )
    return Seen(features, classes)


def _split_features(classifier: nn.Module, split: Split, *, device: torch.device) -> Tensor:
    return torch.cat([see_images(classifier, batch.images, device=device).features for batch in split.batches(batch_size=256)])

"""What goes with the exported file of a denoiser, so that images can be drawn with it: its noise schedule, and how to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.models.bundle import ModelBundle
from stages.training.tasks.denoising import denoiser_of, scheduler_of

HOW_FILE = "SAMPLING.md"

_HOW = """# Drawing images with model.onnx

In Python, with this package installed:

    from pathlib import Path
    from stages.models.diffusion_sampler import sample_from_onnx
    images = sample_from_onnx(Path("."), num_images=16, num_steps=25, seed=0)  # (16, {channels}, {height}, {width}), {range}

Anywhere else: `model.onnx` takes `images` (batch, {channels}, {height}, {width}) float32 and `timesteps` (batch) \
int64{labels}, and
gives `prediction`, of the images' shape: {predicts}. `export.json` has the schedule under
`scheduler` (arguments of diffusers' DDPMScheduler, which DDIMScheduler takes too). Begin with normal noise and go down the
scheduler's timesteps; at the end, values are value * std + mean with the numbers under `input.normalization`.
"""

_HOW_LATENT = """
The model draws latents: `sample_from_onnx(..., autoencoder=Path(PIPELINE))` decodes them with the autoencoder of the folder
that a diffusers pipeline was saved to, and gives images in [0, 1].
"""

_HOW_BY_CLASS = """
The model draws by class: `labels` are the numbers of the classes that `export.json` lists under `labels.classes`, here and in
`sample_from_onnx(..., labels=[3] * 16)`, which goes through all classes without them.
"""

_HOW_GUIDED = """The label {no_class} stands for "no class". Guidance (`guidance_scale`, s; arXiv 2207.12598) takes
p(no class) + s (p(class) - p(no class)) for the prediction, which runs the model twice: s above 1 makes images more typical of
their class and less varied.
"""

_PREDICTS = {
    "epsilon": "the noise in the images",
    "sample": "the images without noise",
    "v_prediction": "the velocity sqrt(a_t) noise - sqrt(1 - a_t) image",
}


def describe_sampling(bundle: ModelBundle, folder: Path) -> dict[str, Any]:
    """Write `SAMPLING.md` to `folder` and return what `export.json` says of a denoiser beside the rest."""
    spec, kind = bundle.architecture.input_spec, str(scheduler_of(bundle.model).config.prediction_type)
    names, no_class = bundle.architecture.class_names, denoiser_of(bundle.model).no_class
    text = _HOW.format(
        channels=spec.channels,
        height=spec.height,
        width=spec.width,
        range="latents" if spec.are_latents else "in [0, 1]",
        predicts=_PREDICTS[kind],
        labels=", by class also `labels`\n(batch) int64" if names else "",
    )
    text += _HOW_LATENT if spec.are_latents else ""
    text += _HOW_BY_CLASS if names else ""
    text += _HOW_GUIDED.format(no_class=no_class) if no_class is not None else ""
    (folder / HOW_FILE).write_text(text, encoding="utf-8")
    labels = {"name": "labels", "shape": ["batch"], "type": "int64", "classes": list(names), "no_class": no_class}
    return {
        **({"labels": labels} if names else {}),
        "scheduler": dict(bundle.architecture.arguments["scheduler"]),
        "timesteps": {"name": "timesteps", "shape": ["batch"], "type": "int64"},
        "output": {"name": "prediction", "predicts": kind},
    }

"""What goes with the exported file of a denoiser, so that images can be drawn with it: its noise schedule, and how to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.models.bundle import ModelBundle
from stages.training.tasks.denoising import scheduler_of

HOW_FILE = "SAMPLING.md"

_HOW = """# Drawing images with model.onnx

In Python, with this package installed:

    from pathlib import Path
    from stages.models.diffusion_sampler import sample_from_onnx
    images = sample_from_onnx(Path("."), num_images=16, num_steps=25, seed=0)  # (16, {channels}, {height}, {width}), in [0, 1]

Anywhere else: `model.onnx` takes `images` (batch, {channels}, {height}, {width}) float32 and `timesteps` (batch) int64, and
gives `prediction`, of the images' shape: {predicts}. `export.json` has the schedule under
`scheduler` (arguments of diffusers' DDPMScheduler, which DDIMScheduler takes too). Begin with normal noise and go down the
scheduler's timesteps; at the end, values are value * std + mean with the numbers under `input.normalization`.
"""

_PREDICTS = {
    "epsilon": "the noise in the images",
    "sample": "the images without noise",
    "v_prediction": "the velocity sqrt(a_t) noise - sqrt(1 - a_t) image",
}


def describe_sampling(bundle: ModelBundle, folder: Path) -> dict[str, Any]:
    """Write `SAMPLING.md` to `folder` and return what `export.json` says of a denoiser beside the rest."""
    spec, kind = bundle.architecture.input_spec, str(scheduler_of(bundle.model).config.prediction_type)
    text = _HOW.format(channels=spec.channels, height=spec.height, width=spec.width, predicts=_PREDICTS[kind])
    (folder / HOW_FILE).write_text(text, encoding="utf-8")
    return {
        "scheduler": dict(bundle.architecture.arguments["scheduler"]),
        "timesteps": {"name": "timesteps", "shape": ["batch"], "type": "int64"},
        "output": {"name": "prediction", "predicts": kind},
    }

"""Networks that tell the noise in an image, by name: a small U-Net, a small DiT, or either class of diffusers by its settings.

Knows how to build such a network and its noise schedule; knows no files, no training and no transforms.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stages.models.timestep_groups import Clock
from stages.models.zoo import DENOISING, Architecture
from stages.ops.diffusers_network import network_class
from stages.ops.input_spec import InputSpec

PRESETS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "unet_micro": (
        "UNet2DModel",
        {
            "block_out_channels": [16, 32, 64],
            "layers_per_block": 1,
            "down_block_types": ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D"],
            "up_block_types": ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
            "attention_head_dim": 16,
            "norm_num_groups": 8,
        },
    ),
    "dit_micro": (
        "DiTTransformer2DModel",
        {"num_attention_heads": 4, "attention_head_dim": 16, "num_layers": 4, "patch_size": 2, "num_embeds_ada_norm": 1},
    ),
    "UNet2DModel": ("UNet2DModel", {}),
    "DiTTransformer2DModel": ("DiTTransformer2DModel", {"num_embeds_ada_norm": 1}),
}
"""Model name -> class of diffusers and the settings that differ from that class's own."""

SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
"""Name of a noise schedule in our settings -> in diffusers'."""

SHARED_WITH_DATA = ("sample_size", "in_channels", "out_channels", "num_class_embeds")
"""What the images and their classes decide, not the user."""

LABEL_DROPOUT = 0.1
"""Share of the labels that training replaces by "no class" unless it is told otherwise: that of DiT, arXiv 2212.09748."""


class Denoiser(nn.Module):
    """A network of diffusers as this house calls networks: (noisy images, timesteps) -> what the schedule wants predicted.

    (B, channels, H, W), (B,) int64 -> (B, channels, H, W), and (B,) int64 labels where it draws by class. Timestep 0 has the
    least noise. Where no timesteps or labels are given all are 0, so that whoever only counts or traces layers need not know
    of them.

    Attributes:
        network: of diffusers.
        more_inputs, output_name: of an exported file.
        scheduler: diffusers' DDPMScheduler: the noise of each timestep and the kind of prediction. Without state.
        clock: tells quantizers that keep bounds by timestep which ones the running forward pass is for.
        num_classes: that it draws; 0: it takes no labels.
        no_class: the label that stands for "no class", with which drawing can be guided; None where the network has none, or
            was made to be trained without it, so that it means nothing.
        label_dropout: share of the labels that training replaces by it, 0 where there is none.
    """

    output_name = "prediction"

    def __init__(
        self,
        network: nn.Module,
        *,
        scheduler: Mapping[str, Any],
        num_classes: int = 0,
        label_dropout: float = 0.0,
        knows_no_class: bool = True,
    ) -> None:
        super().__init__()
        from diffusers import DDPMScheduler

        self.network = network
        self.scheduler = DDPMScheduler(**scheduler)
        self.clock = Clock(int(self.scheduler.config.num_train_timesteps))
        is_dit = type(network).__name__ == "DiTTransformer2DModel"
        self.num_classes = num_classes
        has_no_class = knows_no_class and num_classes > 0 and (is_dit or _num_rows(network) > num_classes)
        self.no_class = num_classes if has_no_class else None
        self.label_dropout = label_dropout if self.no_class is not None else 0.0
        config: Any = network.config
        self.tells_variance = config.out_channels == 2 * config.in_channels  # then the second half, which no sampler here takes
        self.wants_labels = is_dit or num_classes > 0  # a DiT without classes has one, that of all images
        self.more_inputs = {"timesteps": torch.int64, **({"labels": torch.int64} if num_classes else {})}

    def forward(self, images: Tensor, timesteps: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        if timesteps is None:
            timesteps = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        self.clock.timesteps = timesteps
        if self.wants_labels:
            labels = torch.zeros_like(timesteps) if labels is None else labels
            (predicted,) = self.network(images, timesteps, class_labels=labels, return_dict=False)
        else:
            (predicted,) = self.network(images, timesteps, return_dict=False)
        assert isinstance(predicted, Tensor)
        return predicted[:, : images.shape[1]] if self.tells_variance else predicted


def _num_rows(network: nn.Module) -> int:
    """Classes that the network of diffusers has an embedding of; 0 where it takes a class as a number, or none."""
    embedding = getattr(network, "class_embedding", None)
    return embedding.num_embeddings if isinstance(embedding, nn.Embedding) else 0


def find_denoiser(
    name: str,
    arguments: Mapping[str, Any],
    *,
    input_spec: InputSpec,
    num_timesteps: int,
    schedule: str,
    class_names: tuple[str, ...] = (),
    label_dropout: float = LABEL_DROPOUT,
) -> Architecture:
    """The denoiser called `name` for these images, with a noise schedule of `SCHEDULES`.

    With `class_names` it draws by class: it has an embedding of each, and one of "no class", which stands in for a share of
    `label_dropout` of the labels in training.

    Raises:
        ValueError: the name or an argument is unknown; the message has the nearest names.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=2, cutoff=0.4)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"unknown denoiser {name!r}.{hint} Known: {', '.join(PRESETS)}")
    taken = sorted(set(arguments) & set(SHARED_WITH_DATA))
    if taken:
        raise ValueError(f"{name}: model_args {taken} follow from the data; leave them out")
    is_dit = PRESETS[name][0] == "DiTTransformer2DModel"
    if arguments.get("class_embed_type") is not None or arguments.get("num_embeds_ada_norm", 1) != 1:
        raise ValueError(f"{name}: how many classes there are follows from the data; set class_conditional: true instead")
    if input_spec.height != input_spec.width and is_dit:
        raise ValueError(f"{name}: images are {input_spec.height}x{input_spec.width}; a DiT takes square ones")
    shape = {
        "sample_size": input_spec.height if input_spec.height == input_spec.width else list(input_spec.shape[1:]),
        "in_channels": input_spec.channels,
        "out_channels": input_spec.channels,
    }
    whole: dict[str, Any] = {
        "network": {**PRESETS[name][1], **arguments, **shape},
        "scheduler": {"num_train_timesteps": num_timesteps, "beta_schedule": SCHEDULES[schedule]},
    }
    if input_spec.are_latents:
        whole["scheduler"]["clip_sample"] = False  # only pixels are known to lie between -1 and 1
    if class_names:
        number = len(class_names)
        whole["network"] |= {"num_embeds_ada_norm": number} if is_dit else {"num_class_embeds": number + 1}
        whole |= {"label_dropout": label_dropout, **({} if label_dropout else {"knows_no_class": False})}
    return Architecture(
        builder="diffusers", name=name, arguments=whole, input_spec=input_spec, class_names=class_names, task=DENOISING
    )


def build_denoiser(name: str, arguments: Mapping[str, Any], *, num_classes: int = 0) -> nn.Module:
    """The network with initial weights from torch's present random state; with `num_classes` it takes labels.

    Raises:
        ValueError: the name or an argument is unknown, or the arguments do not fit together.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown denoiser {name!r}; known: {', '.join(PRESETS)}")
    kind = network_class(PRESETS[name][0])
    known = [key for key in inspect.signature(kind.__init__).parameters if key != "self"]
    unknown = sorted(set(arguments["network"]) - set(known))
    if unknown:
        raise ValueError(f"{name}: unknown model_args {unknown}; known: {', '.join(known)}")
    try:
        network = kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in arguments["network"].items()})
    except (TypeError, ValueError, IndexError, AssertionError) as error:
        raise ValueError(f"{name}: diffusers refuses the arguments {dict(arguments['network'])}: {error}") from error
    for module in network.modules():
        embedder = getattr(module, "class_embedder", None)
        if embedder is not None:
            # A DiT has one in each block, and each would drop labels of its own: the objective drops them for all.
            embedder.dropout_prob = 0.0
    return Denoiser(
        network,
        scheduler=arguments["scheduler"],
        num_classes=num_classes,
        label_dropout=arguments.get("label_dropout", 0.0),
        knows_no_class=arguments.get("knows_no_class", True),
    )

"""Architectures by name: micro models of our own, the small ResNet of CIFAR, those of other packages, all of timm's, denoisers.

Knows how to build a network from an `Architecture`; knows no files and no transforms. Other packages add architectures through
the entry-point group `orchestrator.models` (name = the model's, value = "package.module:function"); the function is called as
those in `OWN` are: (input_spec, num_classes, arguments) -> network.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor, nn
from torch.nn import functional

import stages.ops.torchvision_compat  # noqa: F401 - timm does not import without it
from stages.ops.input_spec import InputSpec

CLASSIFICATION, DENOISING, RESTORATION = "classification", "denoising", "image_to_image"
"""Tasks that models are for; `stages.training.tasks` has what training makes of them."""


class Architecture(BaseModel):
    """What to build: names and numbers only, so it can be written to `model.json` and built again anywhere."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    builder: Literal["timm", "own", "plugin", "diffusers", "restorer"]
    name: str
    arguments: Mapping[str, Any] = Field(default_factory=dict)
    input_spec: InputSpec
    class_names: tuple[str, ...] = ()
    task: str = CLASSIFICATION

    @model_validator(mode="after")
    def _classes_fit_the_task(self) -> Self:
        """A classifier has classes; a denoiser may draw by class; nothing else knows any."""
        if self.task != DENOISING and (self.task == CLASSIFICATION) != bool(self.class_names):
            raise ValueError(f"{self.name}: a model for {self.task} has {len(self.class_names)} classes")
        return self

    @model_serializer(mode="wrap")
    def _task_of_others_alone(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Descriptions of classifiers, written before there were other tasks, stay what they are."""
        written: dict[str, Any] = plain(self)
        if self.task == CLASSIFICATION:
            del written["task"]
        return written


class ConvNet(nn.Module):
    """Convolution, batch norm and ReLU per stage, then the mean over all places and a linear head.

    (B, channels, H, W) -> (B, classes). With the defaults, one 8x8 channel and 10 classes: 28,490 parameters and 1,124,672
    multiply-accumulates.
    """

    def __init__(
        self, *, channels: int, num_classes: int, widths: tuple[int, ...], strides: tuple[int, ...], kernel_size: int
    ) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        before = channels
        for width, stride in zip(widths, strides, strict=True):
            convolution = nn.Conv2d(before, width, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)
            blocks.append(nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU()))
            before = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.blocks(images)
        scores: Tensor = self.head(features.mean((2, 3)))
        return scores


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to their input: y = ReLU(x + F(x)).

    (B, I, H, W) -> (B, O, ceil(H / stride), ceil(W / stride)). Where the shape changes, the shortcut takes every `stride`-th
    place and adds O - I channels of zeros (option A), so it has no weights.
    """

    def __init__(self, before: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.stride, self.num_added = stride, width - before

    def forward(self, features: Tensor) -> Tensor:
        shortcut = features
        if self.stride > 1 or self.num_added:
            below = self.num_added // 2
            shortcut = functional.pad(
                features[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, below, self.num_added - below)
            )
        hidden = functional.relu(self.norm1(self.conv1(features)))
        return functional.relu(shortcut + self.norm2(self.conv2(hidden)))


class CIFARResNet(nn.Module):
    """A 3x3 stem, then three stages of residual blocks of which the second and third halve the image, mean and linear head.

    (B, channels, H, W) -> (B, classes), at any image size. With three blocks a stage and widths 16, 32 and 64 it is the
    ResNet-20 of the paper: 269,722 parameters for three channels and 10 classes, and 40,551,040 multiply-accumulates at 32x32.

    Source: He et al. 2016, arXiv 1512.03385, section 4.2, with identity shortcuts (option A), as there; Kaiming-normal
    initial weights of the convolutions.
    """

    def __init__(self, *, channels: int, num_classes: int, widths: tuple[int, int, int], num_blocks: int) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0])
        blocks: list[nn.Module] = []
        before = widths[0]
        for stage, width in enumerate(widths):
            for index in range(num_blocks):
                blocks.append(ResidualBlock(before, width, stride=2 if stage and not index else 1))
                before = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.blocks(functional.relu(self.norm(self.stem(images))))
        scores: Tensor = self.head(features.mean((2, 3)))
        return scores


class ConvStem(nn.Module):
    """A patch embedding that looks beyond the patch: two 3x3 convolutions, batch norm and ReLU between them.

    (B, channels, H, W) -> (B, H * W / patch^2, width): the second convolution has stride `patch_size`.

    Source: Xiao et al. 2021, Early Convolutions Help Transformers See Better, arXiv 2106.14881.
    """

    def __init__(self, *, img_size: tuple[int, int], patch_size: int, in_chans: int, embed_dim: int, **_ignored: Any) -> None:
        super().__init__()
        self.img_size, self.patch_size = img_size, (patch_size, patch_size)
        self.grid_size = (img_size[0] // patch_size, img_size[1] // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.layers = nn.Sequential(
            nn.Conv2d(in_chans, embed_dim, 3, padding=1, bias=False),
            nn.BatchNorm2d(embed_dim),
            nn.ReLU(),
            nn.Conv2d(embed_dim, embed_dim, 3, stride=patch_size, padding=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.layers(images).flatten(2).transpose(1, 2)
        return tokens


def _vit_micro(spec: InputSpec, num_classes: int, arguments: Mapping[str, Any]) -> nn.Module:
    return _small_vit("vit_micro", spec, num_classes, {"patch_size": 2, "embed_dim": 64}, arguments)


def _vit65_micro(spec: InputSpec, num_classes: int, arguments: Mapping[str, Any]) -> nn.Module:
    return _small_vit("vit65_micro", spec, num_classes, {"patch_size": 1, "embed_dim": 32}, arguments, embed_layer=ConvStem)


def _small_vit(
    name: str, spec: InputSpec, num_classes: int, own: Mapping[str, Any], arguments: Mapping[str, Any], **fixed: Any
) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    known = {
        **own,
        "depth": 4,
        "num_heads": 4,
        "mlp_ratio": 2.0,
        "drop_rate": 0.0,
        "proj_drop_rate": 0.0,
        "attn_drop_rate": 0.0,
        "drop_path_rate": 0.0,
    }
    chosen = _with_defaults(name, known, arguments)
    patch, heads = chosen["patch_size"], chosen["num_heads"]
    if spec.height % patch or spec.width % patch:
        raise ValueError(f"{name}: image {spec.height}x{spec.width} is not divisible by patch_size {patch}")
    if chosen["embed_dim"] % heads:
        raise ValueError(f"{name}: embed_dim {chosen['embed_dim']} is not divisible by num_heads {heads}")
    # timm's usual 0.02 is a sixth of Xavier's deviation at this width: with it, digits end 1 point lower after 40 epochs.
    model: nn.Module = VisionTransformer(
        img_size=(spec.height, spec.width),
        in_chans=spec.channels,
        num_classes=num_classes,
        weight_init="jax",
        **chosen,
        **fixed,
    )
    return model


def _cnn_micro(spec: InputSpec, num_classes: int, arguments: Mapping[str, Any]) -> nn.Module:
    chosen = _with_defaults("cnn_micro", {"widths": (32, 48, 32), "strides": (1, 1, 2), "kernel_size": 3}, arguments)
    widths, strides = tuple(chosen["widths"]), tuple(chosen["strides"])
    if len(widths) != len(strides) or not widths:
        raise ValueError(f"cnn_micro: {len(widths)} widths and {len(strides)} strides; expected one stride per width")
    return ConvNet(
        channels=spec.channels, num_classes=num_classes, widths=widths, strides=strides, kernel_size=chosen["kernel_size"]
    )


def _resnet20(spec: InputSpec, num_classes: int, arguments: Mapping[str, Any]) -> nn.Module:
    chosen = _with_defaults("resnet20", {"widths": (16, 32, 64)}, arguments)
    widths = tuple(chosen["widths"])
    if len(widths) != 3 or list(widths) != sorted(widths):
        raise ValueError(f"resnet20: widths are {list(widths)}; expected three, none smaller than the one before")
    return CIFARResNet(channels=spec.channels, num_classes=num_classes, widths=widths, num_blocks=3)


Builder = Callable[[InputSpec, int, Mapping[str, Any]], nn.Module]

OWN: Mapping[str, Builder] = {
    "cnn_micro": _cnn_micro,
    "resnet20": _resnet20,
    "vit_micro": _vit_micro,
    "vit65_micro": _vit65_micro,
}
"""The networks that timm does not have, by name."""

ENTRY_POINT_GROUP = "orchestrator.models"


def find_architecture(
    name: str, arguments: Mapping[str, Any], *, input_spec: InputSpec, class_names: tuple[str, ...]
) -> Architecture:
    """The architecture called `name` for these images and classes; hf-hub:OWNER/NAME is looked up and becomes timm's name.

    Raises:
        ValueError: nobody has it; the message has the nearest names.
        RuntimeError: the hub cannot be asked.
    """
    builder: Literal["timm", "own", "plugin"]
    if name in OWN:
        builder = "own"
    elif name in _plugins():
        builder = "plugin"
    elif name.startswith("hf-hub:"):
        builder = "timm"
        name, arguments = _described_on_hub(name, arguments)
    else:
        import timm

        builder = "timm"
        if not timm.is_model(name.partition(".")[0]):
            own = [*OWN, *_plugins()]
            names = [*own, *timm.list_models()]
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(
                f"unknown model {name!r}.{hint} Known: {', '.join(own)} and the {len(names) - len(own)} models of timm"
            )
        plain, _, tag = name.partition(".")
        tags = [known.partition(".")[2] for known in timm.list_models(f"{plain}.*", pretrained=True)]
        if tag and tag not in tags:
            raise ValueError(f"timm has no weights {tag!r} for {plain}; it has {', '.join(tags) or 'none'}")
    return Architecture(builder=builder, name=name, arguments=dict(arguments), input_spec=input_spec, class_names=class_names)


def build_network(architecture: Architecture, *, seed: int) -> nn.Module:
    """The network with initial weights that follow from `seed`; torch's own random state is left as it was.

    Raises:
        ValueError: an argument is unknown or does not fit, or the package that has the architecture is not installed.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        spec, num_classes = architecture.input_spec, len(architecture.class_names)
        if architecture.builder == "timm":
            return create_timm(architecture, num_classes=num_classes)
        if architecture.builder == "diffusers":
            from stages.models.denoisers import build_denoiser

            return build_denoiser(architecture.name, architecture.arguments, num_classes=num_classes)
        if architecture.builder == "restorer":
            from stages.models.restorers import build_restorer

            return build_restorer(architecture)
        if architecture.builder == "own":
            if architecture.name not in OWN:
                raise ValueError(f"unknown own model {architecture.name!r}; known: {', '.join(OWN)}")
            return OWN[architecture.name](spec, num_classes, architecture.arguments)
        return _build_plugin(architecture)


def _build_plugin(architecture: Architecture) -> nn.Module:
    """Another package's network, tried on an image: what it gets wrong is told here, with its name, and not in training."""
    name, spec, num_classes = architecture.name, architecture.input_spec, len(architecture.class_names)
    if name not in _plugins():
        raise ValueError(
            f"unknown plugin model {name!r}; known: {', '.join(_plugins()) or 'none'}. Install the package that adds it (entry "
            f"points {ENTRY_POINT_GROUP})"
        )
    images = torch.zeros(2, *spec.shape)
    try:
        model = _plugins()[name].load()(spec, num_classes, architecture.arguments)
        if isinstance(model, nn.Module) and architecture.task == CLASSIFICATION:
            with torch.no_grad():
                found = model.eval()(images)
            model.train()
    except Exception as error:  # it is somebody else's code
        raise ValueError(
            f"{name} (of {_plugins()[name].value}) fails with {type(error).__name__}: {error}. It was asked for a network for "
            f"images of {tuple(images.shape[1:])} and {num_classes} classes, with model_args {dict(architecture.arguments)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name}: its function gave a {type(model).__name__}; expected a torch.nn.Module")  # noqa: TRY004
    if architecture.task == CLASSIFICATION and getattr(found, "shape", None) != (len(images), num_classes):
        given = tuple(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise ValueError(
            f"{name}: for {len(images)} images its network gives {given}; expected a tensor of "
            f"{(len(images), num_classes)}, a logit for each class"
        )
    return model


def create_timm(architecture: Architecture, *, num_classes: int, name: str = "", **loading: Any) -> nn.Module:
    """The network of timm for the architecture's images; `name` in place of its own, `loading` for `timm.create_model`.

    Raises:
        ValueError: an argument is unknown or does not fit.
        RuntimeError: pretrained weights are asked for and cannot be had.
    """
    import timm

    spec = architecture.input_spec
    arguments = {"in_chans": spec.channels, "num_classes": num_classes, **architecture.arguments}
    defaults = timm.get_pretrained_cfg(architecture.name)
    if defaults is not None and defaults.fixed_input_size:
        # Position embeddings have the size of the image; networks that take any size refuse this argument.
        arguments.setdefault("img_size", (spec.height, spec.width))
    try:
        model: nn.Module = timm.create_model(name or architecture.name, **loading, **arguments)
    except TypeError as error:
        raise ValueError(f"{architecture.name}: timm does not take the arguments {sorted(arguments)}: {error}") from error
    except OSError as error:
        if not loading.get("pretrained"):
            raise
        raise _out_of_reach(name, error) from error
    return model


def _described_on_hub(name: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and arguments of the timm model that a repository of the hub describes."""
    from timm.models import load_model_config_from_hf

    try:
        described, model, own = load_model_config_from_hf(name.removeprefix("hf-hub:"))
    except (OSError, ValueError, KeyError) as error:
        raise _out_of_reach(name, error) from error
    tag = described.get("tag")
    return (f"{model}.{tag}" if tag and "." not in model else model), {**(own or {}), **arguments}


def _out_of_reach(name: str, error: Exception) -> RuntimeError:
    return RuntimeError(
        f"{name}: its pretrained weights cannot be had ({type(error).__name__}: {str(error).splitlines()[0]}). They come from "
        "the Hugging Face hub: check the network, or fill HF_HOME on a machine that has one, or set weights: file"
    )


@cache
def _plugins() -> Mapping[str, Any]:
    """Entry points of other packages' architectures by name; none of them is loaded yet."""
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _with_defaults(model: str, known: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise ValueError(f"{model}: unknown model_args {unknown}; known: {', '.join(known)}")
    return {**known, **arguments}

"""Data sets of encoded images (PNG, JPEG, ...): where they are, how an image becomes a tensor. No tensor library.

Where the files are changes no key: their content does, by `identity`. How an image is decoded, cropped and changed at random is
settings like any others.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from stages.data.file_digests import tree_digest
from stages.data.folder_files import FOLDER_SPLITS, folder_digest
from stages.data.parquet_files import ParquetFiles
from stages.data.shards import MANIFEST_FILE, read_manifest
from stages.data.source import LOCATION, DataSource, few_images, with_split
from stages.data.tar_index import MAX_CLASSES
from stages.data.tar_shards import TarShards

Share = Annotated[float, Field(ge=0, le=1)]
Source = TypeVar("Source", bound=DataSource)


def _tuple(value: Any) -> Any:
    """A list stands for a tuple, as in JSON: `data` passes through a function first, after which strict would mean a tuple."""
    return tuple(value) if isinstance(value, list) else value


Pair = Annotated[tuple[float, float], BeforeValidator(_tuple)]
PerChannel = Annotated[tuple[float, ...], BeforeValidator(_tuple)]


_POLICY_NUMBERS = {"rand": "m|mstd|mmax|inc|n|p", "augmix": "m|mstd|w|d|a|b"}
"""What timm's policies take after their first word, each with a number; the others: mstd."""


class Augmentation(BaseModel):
    """Random changes to training images, by timm's names; each is off unless it is set.

    Source: Zhang et al. 2017, arXiv 1710.09412 (mixup); Yun et al. 2019, arXiv 1905.04899 (CutMix); Cubuk et al. 2019,
    arXiv 1909.13719 (RandAugment); Zhong et al. 2017, arXiv 1708.04896 (erasing); Hoffer et al. 2019, arXiv 1901.09335
    (repeats).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    crop_scale: Pair | None = Field(
        None,
        description="smallest and largest share of the area in a random resized crop, as [0.08, 1]; none: the largest square",
    )
    crop_ratio: Pair = Field((3 / 4, 4 / 3), description="smallest and largest width over height of that crop")
    flip: Share = Field(0.0, description="probability of left and right being swapped")
    vertical_flip: Share = Field(0.0, description="probability of top and bottom being swapped")
    color_jitter: Share = Field(0.0, description="strength of random brightness, contrast and saturation")
    auto_augment: str | None = Field(
        None, description="timm's name of a policy, as rand-m9-mstd0.5-inc1 (RandAugment), original (AutoAugment), augmix-m3-w3"
    )
    erasing: Share = Field(0.0, description="probability of a random rectangle being erased")
    erasing_mode: Literal["const", "rand", "pixel"] = Field(
        "const", description="with 0, with one random colour, or with a random colour for each pixel"
    )
    mixup: float = Field(0.0, ge=0, le=100, description="alpha of mixup's Beta distribution; 0: off")
    cutmix: float = Field(
        0.0, ge=0, le=100, description="alpha of CutMix's Beta distribution; 0: off; with mixup, one of the two"
    )
    mix_probability: Share = Field(1.0, description="share of the batches that are mixed")
    cutmix_probability: Share = Field(0.5, description="share of the mixed batches that CutMix takes where both are on")
    repeats: int = Field(
        1, ge=1, le=64, description="times an image comes in an epoch, changed anew; so many times fewer images"
    )

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        for name in ("crop_scale", "crop_ratio"):
            value = getattr(self, name)
            if value is not None and not 0 < value[0] <= value[1]:
                raise ValueError(f"{name} is {list(value)}; expected [smallest, largest], both above 0")
        if self.crop_scale is not None and self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale is {list(self.crop_scale)}; a crop has no more than the whole area, 1")
        policy = self.auto_augment
        if policy is not None and not re.match(r"(rand|augmix|original|originalr|v0|v0r|3a)(-|$)", policy):
            raise ValueError(
                f"auto_augment is {policy!r}; timm knows policies by their first word: rand, augmix, original, originalr, v0, "
                "v0r, 3a, as in rand-m9-mstd0.5-inc1"
            )
        first, *parts = (policy or "").split("-")
        numbers = _POLICY_NUMBERS.get(first, "mstd")
        wrong = [part for part in parts if not re.match(rf"({numbers})\d" + ("|t" if first == "rand" else ""), part)]
        if wrong:
            raise ValueError(
                f"auto_augment is {policy!r}, and timm would leave {wrong[0]!r} out; expected one of "
                f"{', '.join(numbers.split('|'))} with a number"
            )
        if self.crop_scale is None and "crop_ratio" in self.model_fields_set:
            raise ValueError("crop_ratio is of the random crop, which is off; set crop_scale, too")
        return self


class ImageData(DataSource):
    """What all sets of encoded images share. A batch follows from these settings, the seed and the content alone.

    The identity tells which test images there are and how they are seen, so that what was measured on the same ones can be
    compared. `augment` is not in it: it reaches the key of a stage as a setting.
    """

    is_located: ClassVar[bool] = True
    image_size: int = Field(224, ge=1, le=4096, description="height and width that the model sees, pixels")
    channels: Literal[1, 3] = Field(3, description="3: colour (grey images get three equal channels), 1: grey images only")
    crop: float = Field(
        0.875, gt=0, le=1, description="side of the test images' crop over the side they are resized to; 1: nothing is cut off"
    )
    resize: Literal["center", "squash", "border"] = Field(
        "center",
        description="center: shorter side, then a central crop; squash: both sides; border: longer side, then a border",
    )
    interpolation: Literal["bilinear", "bicubic"] = Field("bicubic", description="of resizing")
    normalization: str = Field(
        "imagenet",
        description="mean and deviation of the channels: imagenet, half (0.5), or those of the weights of a timm model, as "
        "vit_small_patch16_224",
    )
    mean: PerChannel | None = Field(None, description="one per channel, of values in [0, 1], in place of `normalization`")
    std: PerChannel | None = Field(None, description="one per channel, of values in [0, 1], in place of `normalization`")
    augment: Augmentation | None = Field(
        None, description="random changes to training images; none: they are seen as test images"
    )
    on_broken: Literal["error", "skip"] = Field(
        "error", description="what an image that cannot be decoded does: stop the stage, or be left out and listed in the log"
    )
    num_workers: int = Field(
        0, ge=0, le=256, description="processes that decode images; 0: the training process", json_schema_extra=LOCATION
    )

    @model_validator(mode="after")
    def _fit_the_channels(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together; set both, or neither and `normalization`")
        if self.mean is not None and self.std is not None:
            if not len(self.mean) == len(self.std) == self.channels:
                raise ValueError(
                    f"mean has {len(self.mean)} and std {len(self.std)} values; expected {self.channels}, one per channel"
                )
            if self.normalization != "imagenet":
                raise ValueError("both normalization and mean are set; set one of them")
        if self.channels == 1 and self.augment is not None and (self.augment.auto_augment or self.augment.color_jitter):
            raise ValueError("auto_augment and color_jitter need channels: 3")
        return self

    def view(self) -> str:
        """How a test image becomes a tensor, as part of an identity; what is left at its default is left out."""
        names = ("image_size", "channels", "crop", "resize", "interpolation", "normalization", "mean", "std", "on_broken")
        fields = type(self).model_fields
        return ",".join(f"{name}={getattr(self, name)!r}" for name in names if getattr(self, name) != fields[name].default)

    def stand_in(self) -> dict[str, Any] | None:
        return few_images(self, channels=self.channels, height=self.image_size, width=self.image_size)

    def _identity(self, content: str) -> str:
        view = self.view()
        return with_split(f"{content}:{view}" if view else content, self)


def _local(path: str) -> str:
    if "://" in path:
        raise ValueError(
            f"{path} is no folder of this machine. Objects in a bucket carry no digest of their content: pack the images once "
            "with data.pack and put the packed folder into the bucket (data: {name: parquet, path: s3://...})"
        )
    return str(Path(path).expanduser().absolute())


def _anywhere(path: str) -> str:
    if "://" in path:
        if not path.startswith("s3://") or not path[5:].strip("/"):
            raise ValueError(f"{path}: expected a folder, or s3://bucket/prefix")
        return path.rstrip("/")
    return str(Path(path).expanduser().absolute())


def _shard_pattern(pattern: str) -> str:
    folder, _, _ = pattern.rpartition("/")
    if re.search(r"[*?\[]", folder) or "{" in pattern or pattern.startswith("/") or ".." in pattern.split("/"):
        raise ValueError(
            f"{pattern!r}: expected names of shards in `path` as train-*.tar or train/*.parquet; * ? [] in the last part only"
        )
    return pattern


def _with_test_images(source: Source, test: str | None) -> Source:
    if test is None and source.evaluate_on == "test":
        raise ValueError("test is none, so there is nothing to measure on; set evaluate_on: validation")
    return source


class FolderData(ImageData):
    """A folder of images, one folder for each class: PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg."""

    loader: ClassVar[str] = "stages.data.folder:load_folder"
    name: Literal["folder"] = "folder"
    path: Annotated[str, AfterValidator(_local)] = Field(
        description="the folder; a relative one is looked up from where the command runs", json_schema_extra=LOCATION
    )
    train: str = Field("train", description="folder in `path` with the training images", json_schema_extra=LOCATION)
    test: str | None = Field(
        "test",
        description="folder in `path` with the test images (ImageNet: val); none: there are no test images, use validation",
        json_schema_extra=LOCATION,
    )

    @model_validator(mode="after")
    def _has_images_to_measure_on(self) -> Self:
        return _with_test_images(self, self.test)

    def folders(self) -> dict[str, Path]:
        """Split -> folder."""
        named = zip(FOLDER_SPLITS, (self.train, self.test), strict=True)
        return {split: Path(self.path) / name for split, name in named if name is not None}

    def identity(self) -> str:
        return self._identity(f"folder:1:{folder_digest(self.folders())}")


class _ShardedData(ImageData):
    """What is the same for shards in a folder and shards in an artifact."""

    shuffle_window: int = Field(
        2048, ge=1, description="images that are shuffled among each other; up to twice as many lie encoded in memory"
    )


class ParquetData(_ShardedData):
    """Parquet shards in a folder or in a bucket, read as a stream, never held whole: those that `data.pack` wrote, or, with
    `train`, files of anybody with a column of encoded images and one of labels, as Hugging Face writes them.

    Each machine reads such files once to learn what they hold, and remembers that while the file, or the object's ETag, stays.
    """

    loader: ClassVar[str] = "stages.data.parquet:load_parquet"
    name: Literal["parquet"] = "parquet"
    path: Annotated[str, AfterValidator(_anywhere)] = Field(
        description=f"the folder with {MANIFEST_FILE} or with the files, or s3://bucket/prefix", json_schema_extra=LOCATION
    )
    train: Annotated[str, AfterValidator(_shard_pattern)] | None = Field(
        None,
        description=f"files in `path` with the training images, as train-*.parquet; none: {MANIFEST_FILE} says",
        json_schema_extra=LOCATION,
    )
    test: Annotated[str, AfterValidator(_shard_pattern)] | None = Field(
        None,
        description="with `train`: files with the test images; none: there are no test images, use validation",
        json_schema_extra=LOCATION,
    )
    image_column: str = Field(
        "image",
        description="with `train`: column of the encoded images, binary or a struct with bytes",
        json_schema_extra=LOCATION,
    )
    label_column: str = Field("label", description="with `train`: column of the labels, integers", json_schema_extra=LOCATION)
    num_classes: int | None = Field(
        None,
        ge=1,
        le=MAX_CLASSES,
        description="with `train`: classes; none: those that the files name, or as many as the training labels tell",
        json_schema_extra=LOCATION,
    )

    @model_validator(mode="after")
    def _says_what_there_is(self) -> Self:
        if self.train is not None:
            return _with_test_images(self, self.test)
        idle = sorted(self.model_fields_set & {"test", "image_column", "label_column", "num_classes"})
        if idle:
            raise ValueError(f"{', '.join(idle)}: for files that data.pack did not write; say which they are with train")
        return self

    def shards(self) -> dict[str, ParquetFiles]:
        """Split -> its files, where `train` names them."""
        named = zip(FOLDER_SPLITS, (self.train, self.test), strict=True)
        columns = {"image_column": self.image_column, "label_column": self.label_column}
        return {split: ParquetFiles(path=self.path, pattern=name, **columns) for split, name in named if name is not None}

    def identity(self) -> str:
        if self.train is None:
            return self._identity(f"parquet:1:{read_manifest(self.path).content_digest()}")
        parts = [f"{split}={files.content_digest()}" for split, files in self.shards().items()]
        return self._identity(":".join(["parquet-files:1", *parts, *([str(self.num_classes)] if self.num_classes else [])]))

    def stand_in(self) -> dict[str, Any] | None:
        """None for latents, of which no made-up ones are like these; a workflow is tried out also where the data are not."""
        try:
            is_latent = self.train is None and read_manifest(self.path).latents is not None
        except ValueError:
            is_latent = False
        return None if is_latent else super().stand_in()


class WebDatasetData(_ShardedData):
    """Tar shards of WebDataset's layout (KEY.jpg beside KEY.cls), in a folder or in a bucket; read as a stream.

    Each machine reads a shard once to learn what it holds, and remembers that while the file, or the object's ETag, stays.
    """

    loader: ClassVar[str] = "stages.data.webdataset:load_webdataset"
    name: Literal["webdataset"] = "webdataset"
    path: Annotated[str, AfterValidator(_anywhere)] = Field(
        description="the folder with the shards, or s3://bucket/prefix", json_schema_extra=LOCATION
    )
    train: Annotated[str, AfterValidator(_shard_pattern)] = Field(
        "train-*.tar", description="shards in `path` with the training images", json_schema_extra=LOCATION
    )
    test: Annotated[str, AfterValidator(_shard_pattern)] | None = Field(
        "test-*.tar",
        description="shards in `path` with the test images; none: there are no test images, use validation",
        json_schema_extra=LOCATION,
    )
    label_field: str | None = Field(
        None, min_length=1, description="field of KEY.json that has the label, in place of KEY.cls, the label alone"
    )
    num_classes: int | None = Field(
        None, ge=1, le=MAX_CLASSES, description="classes; none: as many as the training labels tell, the largest and one"
    )

    @model_validator(mode="after")
    def _has_images_to_measure_on(self) -> Self:
        return _with_test_images(self, self.test)

    def shards(self) -> dict[str, TarShards]:
        """Split -> its shards."""
        named = zip(FOLDER_SPLITS, (self.train, self.test), strict=True)
        return {
            split: TarShards(path=self.path, pattern=pattern, label_field=self.label_field)
            for split, pattern in named
            if pattern is not None
        }

    def identity(self) -> str:
        parts = [f"{split}={shards.content_digest()}" for split, shards in self.shards().items()]
        return self._identity(":".join(["webdataset:1", *parts, *([str(self.num_classes)] if self.num_classes else [])]))


class PackedData(_ShardedData):
    """The artifact of a `data.pack` node that is connected to the port `data`."""

    loader: ClassVar[str] = "stages.data.parquet:load_packed"
    is_located: ClassVar[bool] = False
    name: Literal["packed"] = "packed"

    def identity(self) -> str:
        """Without the content: that is in a key by the key of the artifact on the port."""
        return self._identity("packed:1")

    def stand_in(self) -> dict[str, Any] | None:
        """None: the node on the port packs its own stand-in."""
        return None


class HuggingFaceData(ImageData):
    """A data set of images of the Hugging Face hub, pinned to a commit, or one that `save_to_disk` wrote into a folder."""

    loader: ClassVar[str] = "stages.data.huggingface:load_hugging_face"
    name: Literal["huggingface"] = "huggingface"
    repo: str | None = Field(None, description="data set on the hub, as uoft-cs/cifar10")
    revision: str | None = Field(
        None, description="commit of `repo`: 40 hex digits; branches and tags move, so they are refused"
    )
    config: str | None = Field(None, description="configuration of `repo`, where it has several")
    path: Annotated[str, AfterValidator(_local)] | None = Field(
        None, description="a folder that save_to_disk wrote, in place of `repo`", json_schema_extra=LOCATION
    )
    train: str = Field("train", description="split with the training images")
    test: str = Field("test", description="split with the test images")
    image_column: str = Field("image", description="column of the images")
    label_column: str = Field("label", description="column of the labels, a ClassLabel")

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        if (self.repo is None) == (self.path is None):
            raise ValueError("expected either repo (with revision) or path")
        if self.path is not None and (self.revision is not None or self.config is not None):
            raise ValueError("revision and config belong to repo; a folder is known by its content")
        if self.repo is not None and not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise ValueError(
                f"revision is {self.revision!r}; expected the 40 hex digits of a commit: a branch gives other images tomorrow. "
                "This prints it: "
                f"python -c \"from huggingface_hub import dataset_info; print(dataset_info('{self.repo}').sha)\""
            )
        return self

    def identity(self) -> str:
        if self.path is not None:
            content = f"huggingface:1:{tree_digest(Path(self.path))}"
        else:
            content = f"huggingface:1:{self.repo}@{self.revision}:{self.config or ''}"
        columns = f"{self.train},{self.test},{self.image_column},{self.label_column}"
        return self._identity(f"{content}:{columns}")

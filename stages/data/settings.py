"""Which data a stage reads, as a user writes it: `data: digits` or `data: {name: synthetic, height: 32}`. No tensor library.

To add a data set: one class here with its name, its identity and its loader, listed in `DataSettings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from stages.contract import Port, StageSettings, StageSpec
from stages.data.file_digests import combined_digest, file_digests
from stages.data.image_settings import FolderData, HuggingFaceData, ImageData, PackedData, ParquetData, WebDatasetData
from stages.data.source import LOCATION, DataSource, absolute_path, few_images, with_split
from stages.ops.diffusion_folder import find_autoencoder

DIGITS_IDENTITY = "digits:sklearn-1:24ab400aa920a5d32f08056e16b811cd316aefe805c5605d444bce0448d71876:split75-0"
"""Digest of every pixel and label of both splits, in order; the loader refuses other bytes."""

PHOTOGRAPHS_IDENTITY = "photographs:sklearn-1:61cc8f3e62fdb09e:5c62d850b1f912e0:blocks128"
"""Digests of the two files, and how the squares to test on are chosen."""


class DigitsData(DataSource):
    """scikit-learn's 8x8 handwritten digits: 1347 images to train on, 450 to test on, stratified, 10 classes."""

    loader: ClassVar[str] = "stages.data.digits:load_digits"
    name: Literal["digits"] = "digits"
    size: Literal[8, 16, 32] = Field(8, description="pixels of a side; above 8 the images are enlarged (bilinear)")
    scaling: Literal["standard", "symmetric"] = Field(
        "standard", description="of values: mean 0 and deviation 1, or from -1 to 1, as diffusion models take them"
    )

    def identity(self) -> str:
        changes = [f"{self.size}px"] if self.size != 8 else []
        changes += [self.scaling] if self.scaling != "standard" else []
        return with_split(":".join([DIGITS_IDENTITY, *changes]), self)

    def stand_in(self) -> dict[str, Any] | None:
        return few_images(self, **({"height": self.size, "width": self.size} if self.size != 8 else {}))


class PhotographsData(DataSource):
    """Squares of the two photographs that scikit-learn bundles, in colour: for restoration; their class is the photograph."""

    loader: ClassVar[str] = "stages.data.photographs:load_photographs"
    name: Literal["photographs"] = "photographs"
    size: Literal[16, 32, 64, 128] = Field(32, description="pixels of a side")

    def identity(self) -> str:
        return with_split(f"{PHOTOGRAPHS_IDENTITY}:{self.size}px", self)

    def stand_in(self) -> dict[str, Any] | None:
        return few_images(self, channels=3, height=self.size, width=self.size, num_classes=2)


class SyntheticData(DataSource):
    """Seeded noise around one random image per class: learnable, of any size; for shape and load tests, not for results."""

    loader: ClassVar[str] = "stages.data.synthetic:load_synthetic"
    name: Literal["synthetic"] = "synthetic"
    channels: int = Field(1, ge=1, le=64, description="channels of one image")
    height: int = Field(8, ge=1, le=4096, description="pixels")
    width: int = Field(8, ge=1, le=4096, description="pixels")
    num_classes: int = Field(10, ge=2, le=100_000, description="classes")
    num_train: int = Field(256, ge=1, description="images to train on")
    num_test: int = Field(64, ge=1, description="images to test on")
    noise: float = Field(0.5, ge=0, le=10, description="standard deviation of the noise; the class images have 1")
    data_seed: int = Field(0, ge=0, lt=2**32, description="seed of the images; apart from the node's seed")

    def identity(self) -> str:
        described = self.model_dump(exclude={"name", "evaluate_on"})
        return with_split("synthetic:1:" + ",".join(f"{name}={value!r}" for name, value in sorted(described.items())), self)

    def stand_in(self) -> dict[str, Any] | None:
        shape = {"channels": self.channels, "height": self.height, "width": self.width, "num_classes": self.num_classes}
        return few_images(self, **shape)


def _name_alone(value: Any) -> Any:
    """`data: digits` stands for `data: {name: digits}`."""
    return {"name": value} if isinstance(value, str) else value


DataSettings = Annotated[
    DigitsData | PhotographsData | SyntheticData | FolderData | ParquetData | WebDatasetData | PackedData | HuggingFaceData,
    Field(
        discriminator="name",
        description="data set: a name, or a mapping with `name` and the data set's own settings (docs/data.md)",
    ),
    BeforeValidator(_name_alone, json_schema_input_type=str | Mapping[str, Any]),
]

DATA_PORT = {"data": Port(kind="dataset", optional=True)}
"""The port of every stage that reads data: what a `data.pack` or `data.encode` node made, for `data: {name: packed}`."""


class ShardSettings(StageSettings):
    """How shards are cut; shared by the stages that write them."""

    data: DataSettings
    rows_per_group: int = Field(128, ge=1, le=65_536, description="images that are read at once")
    shard_bytes: int = Field(
        128 * 2**20,
        ge=1,
        le=2**40,
        description="bytes of encoded images from which a new shard begins, after a whole row group",
    )


class PackSettings(ShardSettings):
    """Write the images of a data set into Parquet shards, shuffled once, as the encoded files that they are."""

    @field_validator("data")
    @classmethod
    def _says_nothing_without_effect(cls, data: DataSettings) -> DataSettings:
        if isinstance(data, PackedData):
            raise ValueError("data.pack takes any data but packed, which is what it makes")  # noqa: TRY004
        if isinstance(data, ImageData):
            idle = sorted((data.model_fields_set & ImageData.model_fields.keys()) - {"on_broken", "evaluate_on"})
            if idle:
                raise ValueError(
                    f"{', '.join(idle)}: without effect here; images are packed as they are. Say it where they are read"
                )
        return data

    def data_identity(self) -> str | None:
        return self.data.identity()


class EncodeSettings(ShardSettings):
    """Encode the images of a data set once into the latents that a pipeline's denoiser is trained on."""

    pipeline: Annotated[str, AfterValidator(absolute_path)] = Field(
        description="folder that diffusers' save_pretrained wrote of a pipeline with an autoencoder (AutoencoderKL, "
        "AutoencoderTiny, VQModel), or of the autoencoder alone. Its content is in the key, not its place",
        json_schema_extra=LOCATION,
    )

    @field_validator("data")
    @classmethod
    def _says_nothing_without_effect(cls, data: DataSettings) -> DataSettings:
        if isinstance(data, ImageData) and data.augment is not None:
            raise ValueError("augment: without effect here; each image is encoded once, as test images are seen")
        return data

    def data_identity(self) -> str | None:
        return f"{self.data.identity()};{autoencoder_identity(self.pipeline)}"


def autoencoder_identity(folder: str) -> str:
    """Digest of the autoencoder in a folder of diffusers, as part of an identity.

    Raises:
        ValueError: there is none.
    """
    found = find_autoencoder(Path(folder))
    return f"autoencoder:{combined_digest(file_digests(found.root, found.files))}"


STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="data.pack",
        version=1,
        summary="Pack a data set of images into Parquet shards, to be read as a stream from a folder, a bucket or the store",
        settings=PackSettings,
        implementation="stages.data.pack:pack",
        output="dataset",
        metrics=("num_train", "num_test", "num_classes", "num_broken", "num_shards", "size_bytes", "content_digest"),
        source="none: carries no method",
        example={"data": "digits"},
    ),
    StageSpec(
        name="data.encode",
        version=1,
        summary="Encode images into the latents of a pipeline's autoencoder, for denoisers that draw latents",
        settings=EncodeSettings,
        implementation="stages.data.encode:encode",
        inputs=DATA_PORT,
        output="dataset",
        metrics=(
            "num_train",
            "num_test",
            "num_classes",
            "channels",
            "height",
            "width",
            "reconstruction_psnr_db",
            "num_shards",
            "size_bytes",
            "content_digest",
        ),
        source="Rombach et al. 2021, arXiv 2112.10752; autoencoders of diffusers",
        example={"data": {"name": "folder", "path": "images", "image_size": 256}, "pipeline": "DiT-XL-2-256"},
    ),
)

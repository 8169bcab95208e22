"""Which data a stage reads, as a user writes it: `data: digits` or `data: {name: synthetic, height: 32}`. No tensor library.

To add a data set: one class here with its name, its identity and its loader, listed in `DataSettings`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

DIGITS_IDENTITY = "digits:sklearn-1:24ab400aa920a5d32f08056e16b811cd316aefe805c5605d444bce0448d71876:split75-0"
"""Digest of every pixel and label of both splits, in order; the loader refuses other bytes."""


class DataSource(BaseModel, ABC):
    """Base of the data sets: `loader` is "package.module:function", imported only where the data are read."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    loader: ClassVar[str]
    evaluate_on: Literal["test", "validation"] = Field(
        "test",
        description="images that accuracy is measured on; validation: a fifth of the training images, left out of training, "
        "so that settings can be chosen without a look at the test images",
    )

    @abstractmethod
    def identity(self) -> str:
        """Name and version or content digest: two data sets with one identity give the same batches."""

    def stand_in(self) -> dict[str, Any] | None:
        """Settings of a few random images of the same shape, for trying a workflow out; None where there are none."""
        return None


class DigitsData(DataSource):
    """scikit-learn's 8x8 handwritten digits: 1347 images to train on, 450 to test on, stratified, 10 classes."""

    loader: ClassVar[str] = "stages.data.digits:load_digits"
    name: Literal["digits"] = "digits"

    def identity(self) -> str:
        return _with_split(DIGITS_IDENTITY, self)

    def stand_in(self) -> dict[str, Any] | None:
        return _few_images(self)


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
        return _with_split("synthetic:1:" + ",".join(f"{name}={value!r}" for name, value in sorted(described.items())), self)

    def stand_in(self) -> dict[str, Any] | None:
        shape = {"channels": self.channels, "height": self.height, "width": self.width, "num_classes": self.num_classes}
        return _few_images(self, **shape)


def _few_images(source: DataSource, **shape: int) -> dict[str, Any]:
    """Synthetic images, enough for a handful of steps with batches of 32, also where a fifth of them is held out."""
    few: dict[str, Any] = {"name": "synthetic", **shape, "num_train": 160, "num_test": 32}
    return few if source.evaluate_on == "test" else {**few, "evaluate_on": source.evaluate_on}


def _with_split(identity: str, source: DataSource) -> str:
    return identity if source.evaluate_on == "test" else f"{identity}:{source.evaluate_on}"


def _name_alone(value: Any) -> Any:
    """`data: digits` stands for `data: {name: digits}`."""
    return {"name": value} if isinstance(value, str) else value


DataSettings = Annotated[
    DigitsData | SyntheticData,
    Field(discriminator="name", description="data set: a name, or a mapping with `name` and the data set's own settings"),
    BeforeValidator(_name_alone, json_schema_input_type=str | Mapping[str, Any]),
]

"""The base of every description of a data set. No tensor library: planning reads it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

LOCATION: dict[str, Any] = {"operational": True}
"""Marks a setting that says where data are or how they are read: it stays out of keys, because the content is in them."""


LARGE_PIXELS = 128
"""Height and width from which images count as large."""


class DataSource(BaseModel, ABC):
    """Base of the data sets: `loader` is "package.module:function", imported only where the data are read.

    `is_located`: the settings that reach a key do not tell the content; `identity` alone does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    loader: ClassVar[str]
    is_located: ClassVar[bool] = False
    evaluate_on: Literal["test", "validation"] = Field(
        "test",
        description="images that accuracy is measured on; validation: a fifth of the training images, left out of training, "
        "so that settings can be chosen without a look at the test images",
    )

    @abstractmethod
    def identity(self) -> str:
        """Name and version or content digest: two data sets with one identity give the same batches.

        Raises:
            ValueError: the data cannot be found or read, so that nothing can be said of them.
        """

    def stand_in(self) -> dict[str, Any] | None:
        """Settings of a few random images of the same shape, for trying a workflow out; None where there are none."""
        return None


def absolute_path(path: str) -> str:
    """The folder by its whole name; a relative one is looked up from where the command runs."""
    return str(Path(path).expanduser().absolute())


def few_images(source: DataSource, **shape: int) -> dict[str, Any]:
    """Synthetic images, enough for a few steps with batches of 32, also where a fifth of them is held out.

    Of large images there are only a few, for batches of 4, so that large networks take seconds for a step on 2 cores.
    """
    is_large = min(shape.get("height", 0), shape.get("width", 0)) >= LARGE_PIXELS
    few = {"name": "synthetic", **shape, "num_train": 10 if is_large else 160, "num_test": 4 if is_large else 32}
    return few if source.evaluate_on == "test" else {**few, "evaluate_on": source.evaluate_on}


def with_split(identity: str, source: DataSource) -> str:
    """The identity with the choice of the images that accuracy is measured on."""
    return identity if source.evaluate_on == "test" else f"{identity}:{source.evaluate_on}"


def identity_of_files(source: DataSource | None) -> str | None:
    """Identity of data whose settings do not tell their content, for a stage whose key holds the settings of others alone."""
    return source.identity() if source is not None and source.is_located else None

"""What a model takes and a data split gives: shape and scaling of one image. Knows no tensor library."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class InputSpec(BaseModel):
    """Shape of one image and the scaling of its channels: a model sees (value - mean) / std of values in [0, 1]."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    channels: int = Field(ge=1, description="channels of one image")
    height: int = Field(ge=1, description="pixels")
    width: int = Field(ge=1, description="pixels")
    mean: tuple[float, ...] = Field(description="one per channel, of values in [0, 1]")
    std: tuple[float, ...] = Field(description="one per channel, of values in [0, 1]")

    @model_validator(mode="after")
    def _one_scaling_per_channel(self) -> Self:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(
                f"mean has {len(self.mean)} and std {len(self.std)} values; expected {self.channels}, one per channel"
            )
        if any(value <= 0 for value in self.std):
            raise ValueError(f"std is {self.std}; every value must be above 0")
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return (self.channels, self.height, self.width)

"""What a model takes and a data split gives: shape and scaling of one image. Knows no tensor library."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator


class InputSpec(BaseModel):
    """Shape of one image and the scaling of its channels: a model sees (value - mean) / std of values in [0, 1].

    Latents, what an autoencoder makes of an image, have no range; the model sees them as they are (mean 0, std 1).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    channels: int = Field(ge=1, description="channels of one image")
    height: int = Field(ge=1, description="pixels")
    width: int = Field(ge=1, description="pixels")
    mean: tuple[float, ...] = Field(description="one per channel, of values in [0, 1]")
    std: tuple[float, ...] = Field(description="one per channel, of values in [0, 1]")

    values: Literal["pixels", "latents"] = Field("pixels", description="what the channels hold")

    @model_serializer(mode="wrap")
    def _latents_alone_say_so(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Descriptions of models, written before there were latents, stay what they are."""
        written: dict[str, Any] = plain(self)
        if self.values == "pixels":
            del written["values"]
        return written

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
    def are_latents(self) -> bool:
        """Whether an autoencoder made them."""
        return self.values == "latents"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return (self.channels, self.height, self.width)


def latent_spec(channels: int, height: int, width: int) -> InputSpec:
    """Of latents of this shape."""
    zeros, ones = (0.0,) * channels, (1.0,) * channels
    return InputSpec(channels=channels, height=height, width=width, mean=zeros, std=ones, values="latents")

"""Settings and descriptions of the `export` stages. Torch-free, so that plans stay fast."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from stages.contract import Port, StageSettings, StageSpec
from stages.data.settings import DATA_PORT, DataSettings
from stages.data.source import identity_of_files


class CheckedSettings(StageSettings):
    """What exports share that are checked on test images where data are given."""

    data: DataSettings | None = Field(
        None, description="data whose test images take part in the check; none: random images alone"
    )

    def data_identity(self) -> str | None:
        return identity_of_files(self.data)


class ONNXSettings(CheckedSettings):
    """Write an ONNX file and check it where it was written."""

    opset: int = Field(18, ge=18, le=23, description="ONNX operator set; 18 is the oldest that the exporter writes directly")
    dynamic_batch: bool = Field(True, description="let the file take any batch size; false fixes it to 1")
    verify_samples: int = Field(
        64, ge=1, le=100_000, description="random images, and test images where data is given, in the check"
    )
    tolerance: float = Field(
        1e-4,
        gt=0,
        le=1,
        description="largest difference of a logit, relative to the largest logit in the check, before it fails",
    )
    max_share_beyond: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of the images whose logits may differ by more; none: 0, or 0.1 for a model that rounds or ranks "
        "activations, where a value within rounding error of a border falls to either side",
    )


class PackedSettings(CheckedSettings):
    """Write N:M sparse and b-bit weights in the room that they need, and read them back."""

    verify_samples: int = Field(
        64, ge=1, le=100_000, description="random images, and test images where data is given, in the check"
    )


class INT8Settings(StageSettings):
    """Write an ONNX file with integer layers, calibrated on training images and checked on test images of `data`."""

    data: DataSettings
    mode: Literal["auto", "static", "dynamic"] = Field(
        "auto",
        description="scales of activations: static, from calibration; dynamic, from each batch; auto: static for convolutions, "
        "dynamic for matrix products, neither for a kind with less than 5 % of the weights",
    )
    weight_bits: Literal[4, 8] = Field(
        8, description="bits of a weight; 4 for linear layers only, in blocks of 32 with one scale, and with mode auto"
    )
    calibration_samples: int = Field(256, ge=1, le=100_000, description="training images that fix static scales")
    verify_samples: int = Field(512, ge=1, le=100_000, description="test images in the check, at most")
    min_agreement: float = Field(
        0.9, ge=0, le=1, description="share of them that file and model must classify alike, or the stage fails"
    )
    max_relative_error: float = Field(
        0.1,
        gt=0,
        le=1,
        description="of a model that gives images or noise: root mean square of the difference to the model, over that of what "
        "the model gives, before the stage fails",
    )
    opset: int = Field(18, ge=18, le=23, description="ONNX operator set of the float file that is quantized")
    dynamic_batch: bool = Field(True, description="let the file take any batch size; false fixes it to 1")

    @model_validator(mode="after")
    def _four_bits_have_one_way(self) -> Self:
        if self.weight_bits == 4 and self.mode != "auto":
            raise ValueError(
                f"weight_bits 4 with mode {self.mode}: onnxruntime's CPU operator for 4-bit weights (MatMulNBits) rounds "
                "activations its own way; use mode auto, or weight_bits 8"
            )
        return self

    def data_identity(self) -> str | None:
        return self.data.identity()


class ProgramSettings(CheckedSettings):
    """Write a torch.export program without pickle and run it beside the model."""

    dynamic_batch: bool = Field(True, description="let the program take any batch size; false fixes it to 1")
    verify_samples: int = Field(
        64, ge=1, le=100_000, description="random images, and test images where data is given, in the check"
    )
    tolerance: float = Field(
        1e-5, gt=0, le=1, description="largest difference of a logit, relative to the largest logit, before the check fails"
    )


class SemiStructuredSettings(CheckedSettings):
    """Write 2:4 layers compressed for NVIDIA's sparse tensor cores, in float16; needs a GPU."""

    verify_samples: int = Field(
        64, ge=1, le=100_000, description="random images, and test images where data is given, in the check"
    )
    tolerance: float = Field(
        1e-2, gt=0, le=1, description="largest difference to dense float16, relative to the largest logit, before it fails"
    )


STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="export.onnx",
        version=2,
        summary="Writes one ONNX file, runs it against the model, and checks N:M sparsity on the file itself",
        settings=ONNXSettings,
        implementation="stages.export.onnx:run",
        inputs={"model": Port(kind="model"), **DATA_PORT},
        output="exported",
        metrics=(
            "size_bytes",
            "max_abs_difference",
            "max_relative_difference",
            "share_beyond_tolerance",
            "num_nm_blocks",
            "num_violating_blocks",
        ),
        source="ONNX 1.x operator sets, onnx.ai; torch.onnx.export (dynamo exporter); checked with ONNX Runtime",
        example={"data": "digits", "verify_samples": 16},
    ),
    StageSpec(
        name="export.packed",
        version=2,
        summary="Stores N:M sparse and b-bit weights packed in one safetensors file, bit-exactly, with a loader",
        settings=PackedSettings,
        implementation="stages.export.packed:run",
        inputs={"model": Port(kind="model"), **DATA_PORT},
        output="packed",
        metrics=(
            "size_bytes",
            "dense_size_bytes",
            "gzip_size_bytes",
            "size_ratio",
            "size_ratio_to_gzip",
            "num_sparse_tensors",
            "num_quantized_tensors",
            "max_abs_difference",
        ),
        source="Layout: docs/formats.md; combination numbers: Knuth, The Art of Computer Programming 4A, 7.2.1.3",
        example={"data": "digits", "verify_samples": 16},
        forecast="stages.export.forecast:packed",
        forecast_metrics=("size_bytes", "dense_size_bytes", "size_ratio", "num_sparse_tensors", "num_quantized_tensors"),
    ),
    StageSpec(
        name="export.onnx_int8",
        version=3,
        summary="Writes an ONNX file whose layers onnxruntime runs on integers, and checks that it does",
        settings=INT8Settings,
        implementation="stages.export.int8:run",
        inputs={"model": Port(kind="model"), **DATA_PORT},
        output="exported",
        metrics=(
            "size_bytes",
            "float_size_bytes",
            "size_ratio",
            "top1_agreement",
            "max_abs_difference",
            "max_relative_difference",
            "num_integer_operators",
            "num_integer_weights",
            "num_masked_layers_in_integers",
            "convolutions",
            "products",
        ),
        source="onnxruntime.quantization (QDQ, MinMax calibration, MatMulNBits); Jacob et al. 2018, arXiv 1712.05877",
        example={"data": "digits", "calibration_samples": 64, "verify_samples": 64},
    ),
    StageSpec(
        name="export.program",
        version=2,
        summary="Writes a torch.export program (.pt2) that holds no pickle, loads it again and runs it beside the model",
        settings=ProgramSettings,
        implementation="stages.export.program:run",
        inputs={"model": Port(kind="model"), **DATA_PORT},
        output="program",
        metrics=("size_bytes", "max_abs_difference", "max_relative_difference", "num_graph_nodes", "has_pickle"),
        source="torch.export, PT2 archive format (pytorch.org/docs/stable/export/pt2_archive.html)",
        example={"data": "digits", "verify_samples": 16},
    ),
    StageSpec(
        name="export.semi_structured",
        version=2,
        summary="Writes 2:4 sparse linear layers in the form that NVIDIA's sparse tensor cores multiply; needs a GPU",
        settings=SemiStructuredSettings,
        implementation="stages.export.semi_structured:run",
        inputs={"model": Port(kind="model"), **DATA_PORT},
        output="semi_structured",
        metrics=("size_bytes", "dense_size_bytes", "size_ratio", "num_sparse_layers", "num_masked_layers_left_dense"),
        source="Mishra et al. 2021, arXiv 2104.08378; torch.sparse.to_sparse_semi_structured (cutlass path)",
        example={"verify_samples": 16},
        experimental=True,
    ),
)

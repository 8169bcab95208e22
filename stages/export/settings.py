"""Settings and descriptions of the `export` stages. Torch-free, so that plans stay fast."""

from __future__ import annotations

from pydantic import Field

from stages.contract import Port, StageSettings, StageSpec
from stages.data.settings import DataSettings


class ONNXSettings(StageSettings):
    """Write an ONNX file and check it where it was written."""

    data: DataSettings | None = Field(
        None, description="data whose test images take part in the check; none: random images alone"
    )
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


STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="export.onnx",
        version=1,
        summary="Writes one ONNX file, runs it against the model, and checks N:M sparsity on the file itself",
        settings=ONNXSettings,
        implementation="stages.export.onnx:run",
        inputs={"model": Port(kind="model")},
        output="exported",
        metrics=("size_bytes", "max_abs_difference", "max_relative_difference", "num_nm_blocks", "num_violating_blocks"),
        source="ONNX 1.x operator sets, onnx.ai; torch.onnx.export (dynamo exporter); checked with ONNX Runtime",
        example={"data": "digits", "verify_samples": 16},
    ),
)

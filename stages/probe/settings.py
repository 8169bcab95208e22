"""Settings and descriptions of the probe stages: without tensors, to check an installation and to exercise an engine."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from stages.contract import Port, StageSettings, StageSpec


class EchoSettings(StageSettings):
    """Write a value down."""

    value: JsonValue = Field(None, description="any JSON value; comes back as the metric `value`")


class BytesSettings(StageSettings):
    """Write a file of a given size."""

    size: int = Field(1024, ge=0, le=2**40, description="bytes")


class SleepSettings(StageSettings):
    """Wait."""

    seconds: float = Field(1.0, ge=0, le=86_400, description="seconds to wait, in all attempts together")
    value: JsonValue = Field(None, description="any JSON value; comes back as the metric `value`")


class FailSettings(StageSettings):
    """Fail on purpose."""

    mode: Literal["error", "diverge", "memory", "exit", "kill", "segfault", "hang"] = Field(
        "error",
        description="error: raise; diverge, memory: raise TrainingDiverged, MemoryError; exit: leave the process with status 3;"
        " kill, segfault: die of that signal; hang: never look at a cancellation",
    )
    failures: int | None = Field(None, ge=0, description="attempts that fail before one succeeds; none: every attempt fails")
    value: JsonValue = Field(None, description="any JSON value; comes back as the metric `value` of an attempt that succeeds")


_INPUTS = {"inputs": Port(kind="probe", optional=True, many=True)}

STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="probe.echo",
        version=1,
        summary="Write a value and the keys of the inputs down",
        settings=EchoSettings,
        implementation="stages.probe.echo:echo",
        output="probe",
        inputs=_INPUTS,
        metrics=("value", "num_inputs"),
        source="none: carries no method",
        example={"value": "hello"},
    ),
    StageSpec(
        name="probe.bytes",
        version=1,
        summary="Write a file of a given size that follows from seed and input",
        settings=BytesSettings,
        implementation="stages.probe.blob:write_blob",
        output="probe",
        inputs={"input": Port(kind="probe", optional=True)},
        metrics=("size_bytes", "digest"),
        source="none: carries no method",
        example={"size": 65536},
    ),
    StageSpec(
        name="probe.sleep",
        version=1,
        summary="Wait, report progress, stop when asked, and go on where an earlier attempt was stopped",
        settings=SleepSettings,
        implementation="stages.probe.sleep:sleep",
        output="probe",
        inputs=_INPUTS,
        metrics=("value", "num_inputs"),
        source="none: carries no method",
        example={"seconds": 0.5},
    ),
    StageSpec(
        name="probe.fail",
        version=1,
        summary="Fail on purpose, in every attempt or in the first few",
        settings=FailSettings,
        implementation="stages.probe.fail:fail",
        output="probe",
        inputs=_INPUTS,
        metrics=("value", "num_inputs", "num_failures"),
        source="none: carries no method",
        example={"mode": "error"},
    ),
)

"""Machines to try a plan on without having them, as data: the file that `plan --simulate` reads.

nodes:                                             # machines of one kind each
  - {count: 4, cpus: 16, gpus: 8, memory: 512GiB, gpu_memory: 80GiB, usd_per_hour: 32}
  - {count: 10, cpus: 8, preemptions_per_hour: 0.2, back_after: 5m}
failure_rate: 0.01                                 # of attempts; their process dies
seconds: {pretrain: 6h, search.finetune: 30m}      # of nodes of which there is no record, or that shall take so long
overhead: 0.2s                                     # that each node takes beside its stage
seed: 0
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from orchestrator.errors import UsageError, WorkflowError
from orchestrator.workflow.source import checked_bytes
from orchestrator.workflow.spec import DurationS, Frozen, SizeBytes
from orchestrator.workflow.yaml12 import YamlReader

EXAMPLE = "nodes: [{count: 4, cpus: 16, gpus: 1, memory: 64GiB}]"


class MachineKind(Frozen):
    """So many machines of one kind, and what happens to them."""

    count: int = Field(1, ge=1, le=100_000)
    cpus: float = Field(gt=0)
    gpus: int = Field(0, ge=0)
    memory: SizeBytes | None = Field(None, description="left out: not counted")
    gpu_memory: SizeBytes | None = Field(None, description="of each GPU; recorded peaks are held against it")
    custom: Mapping[str, float] = Field(default_factory=dict, description="custom resources by name")
    usd_per_hour: float | None = Field(None, ge=0, description="of one machine, busy or not")
    failures_per_hour: float = Field(0, ge=0, description="of one machine: what runs there is lost")
    preemptions_per_hour: float = Field(0, ge=0, description="of one machine: what runs there saves first")
    back_after: DurationS = Field(120.0, description="so long is a machine away")


class ClusterSpec(Frozen):
    """A cluster on paper."""

    nodes: tuple[MachineKind, ...] = Field(min_length=1)
    failure_rate: float = Field(0, ge=0, lt=1, description="share of attempts that fail on the way")
    seconds: Mapping[str, DurationS] = Field(default_factory=dict, description="by name of the node, or sweep.node")
    overhead: DurationS = Field(0.1, description="that each node takes beside its stage")
    seed: int = Field(0, ge=0)


def load_cluster(file: str) -> ClusterSpec:
    """Read a cluster file; UsageError says what in it is wrong, and what is legal there."""
    try:
        reader = YamlReader(checked_bytes(Path(file).read_bytes(), file=file), file=file)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}", next_step=f"a file like: {EXAMPLE}") from error
    content: Any = reader.read()
    if reader.findings.problems:
        raise WorkflowError(reader.findings.sorted())
    try:
        return ClusterSpec.model_validate(content)
    except ValidationError as error:
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        fields = MachineKind.model_fields if len(first["loc"]) > 1 and first["loc"][0] == "nodes" else ClusterSpec.model_fields
        raise UsageError(
            f"{file}: {place}: {first['msg'].lower()}; legal here: {', '.join(fields)}", next_step=f"for example {EXAMPLE}"
        ) from None

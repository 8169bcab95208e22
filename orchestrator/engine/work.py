"""What passes between the scheduler and a worker, as plain data: the order to run one node, and what became of it.

Only JSON crosses a process boundary: no class of a stage, no exception, no tensor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, kw_only=True)
class InputRef:
    """A finished artifact that a node reads, and the label under which this plan knows it."""

    stage: str
    key: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Work:
    """The order to run one node: all that the worker needs beside the store."""

    run: str
    label: str
    folder: str
    stage: str
    key: str
    identity: Mapping[str, Any]
    settings: Mapping[str, Any]
    seed: int
    inputs: Mapping[str, InputRef | Sequence[InputRef]]
    attempt: int
    num_threads: int
    use_gpu: bool
    forced: bool = False
    replaces: str = ""  # of a forced node: the record that it makes anew (`record_mark`); any other that stands is newer
    stale_lease: str = ""
    timeout_s: float | None = None  # the scheduler's business, except where the executor blocks it
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """As text, for another process."""
        return json.dumps(vars(self), default=vars)

    @classmethod
    def from_json(cls, text: str) -> Work:
        """The inverse of `to_json`."""
        content = json.loads(text)
        content["inputs"] = {
            port: InputRef(**value) if isinstance(value, dict) else [InputRef(**item) for item in value]
            for port, value in content["inputs"].items()
        }
        return cls(**content)


class Ending(StrEnum):
    """How an attempt ended."""

    DONE = "done"  # made and published
    SHARED = "shared"  # another process had made it
    BUSY = "busy"  # another process is making it
    FAILED = "failed"  # the stage raised
    CANCELLED = "cancelled"  # it was asked to stop, and did
    LOST = "lost"  # its process died
    LOST_NODE = "lost_node"  # its machine died
    PREEMPTED = "preempted"  # its process was asked to leave the machine, and saved its state first
    LEASE_LOST = "lease_lost"  # another process took the work over
    NO_MEMORY = "no_memory"  # killed by the memory monitor, or what it asked for could not be had
    STORAGE = "storage"  # the store could not be read or written
    DAMAGED_INPUT = "damaged_input"  # an input's bytes are missing or differ from their digest


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one attempt. `error` is one sentence, `trace` the whole; metrics are those of the record.

    `resumed`: the step from which it went on, and where that state came from; empty where it began anew.
    """

    ending: Ending
    metrics: Mapping[str, Any] = field(default_factory=dict)
    content_digest: str = ""
    seconds: float = 0.0
    size_bytes: int = 0
    holder: str = ""
    lease_version: str = ""
    error: str = ""
    error_type: str = ""
    trace: str = ""
    host: str = ""
    process_id: int = 0  # 0: nobody came back to tell
    peak_memory_bytes: int = 0  # of the process, since it began
    peak_gpu_bytes: int = 0  # that this attempt's stage held of its GPU; 0: it used none
    gpu_bytes: int = 0  # of that GPU in all
    resumed: Mapping[str, Any] = field(default_factory=dict)

    def failure(self, *, attempt: int) -> dict[str, Any]:
        """What an event says of an attempt that came to nothing."""
        return {
            "attempt": attempt,
            "ending": self.ending.value,
            "error": self.error,
            "error_type": self.error_type,
            "trace": self.trace,
            **self.origin(),
            **self.gpu_memory(),
        }

    def origin(self) -> dict[str, Any]:
        """What an event says of where the attempt ran, and from what it went on, unless it began anew."""
        place = {"host": self.host, "process_id": self.process_id}
        return {**place, "resumed": dict(self.resumed)} if self.resumed else place

    def gpu_memory(self) -> dict[str, int]:
        """What an event says of the GPU's memory, where the attempt used one."""
        return {"peak_gpu_bytes": self.peak_gpu_bytes, "gpu_bytes": self.gpu_bytes} if self.peak_gpu_bytes else {}

    def to_json(self) -> str:
        """As text, for another process."""
        return json.dumps(vars(self), default=vars)

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        """The inverse of `to_json`."""
        content = json.loads(text)
        return cls(**{**content, "ending": Ending(content["ending"])})

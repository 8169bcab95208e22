"""What becomes of an attempt that came to nothing: of which class its failure is, whether the node is tried again, after what
wait and with what. Rules only: knows no executor, no clock and no store.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.engine.executors.base import MachineShape
from orchestrator.engine.gpu_memory import gpu_share
from orchestrator.engine.work import Ending, Outcome
from orchestrator.errors import StoreError
from orchestrator.workflow.spec import Resources, Retry
from stages.contract import WorkersLost

MAX_BACKOFF_S = 60.0
MAX_UNCOUNTED = 20
"""Attempts that another one's decision ended (preemption, a lost lease) do not count as tries, up to so many of them."""
JITTER = 0.5
"""Share by which a wait for the store varies, so that nodes that failed together do not come back together."""


class FailureClass(StrEnum):
    """Why an attempt came to nothing, as far as that decides what to do next."""

    USER_ERROR = "user_error"  # the stage raised, or cannot run with these settings
    TIMEOUT = "timeout"  # it ran longer than its node allows
    OUT_OF_MEMORY = "out_of_memory"
    LOST_WORKER = "lost_worker"  # its process died
    LOST_NODE = "lost_node"  # its machine died
    PREEMPTED = "preempted"  # its process was asked to leave the machine (SIGTERM)
    LEASE_LOST = "lease_lost"  # it stood still for so long that another process took the work over
    STORAGE = "storage"
    DAMAGED_INPUT = "damaged_input"
    CANCELLED = "cancelled"  # it stopped as if asked to, and nobody had asked


_CLASSES: Mapping[Ending, FailureClass] = {
    Ending.FAILED: FailureClass.USER_ERROR,
    Ending.NO_MEMORY: FailureClass.OUT_OF_MEMORY,
    Ending.LOST: FailureClass.LOST_WORKER,
    Ending.LOST_NODE: FailureClass.LOST_NODE,
    Ending.PREEMPTED: FailureClass.PREEMPTED,
    Ending.LEASE_LOST: FailureClass.LEASE_LOST,
    Ending.STORAGE: FailureClass.STORAGE,
    Ending.DAMAGED_INPUT: FailureClass.DAMAGED_INPUT,
    Ending.CANCELLED: FailureClass.CANCELLED,
}
RETRIED = (Ending.LOST, Ending.LOST_NODE, Ending.NO_MEMORY, Ending.STORAGE, Ending.PREEMPTED, Ending.LEASE_LOST)
UNCOUNTED = (Ending.PREEMPTED, Ending.LEASE_LOST)
HOPELESS = (
    "TrainingDiverged",
    "NotEncodable",
    "ValidationError",
    "ValueError",
    "TypeError",
    "ImportError",
    "ModuleNotFoundError",
)
"""Exceptions that the same settings raise again: trying once more is a waste even where a node asks for it."""

_DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS)
_MEMORY_WORDS = (
    "can't allocate memory",
    "not enough memory",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def failure_class(outcome: Outcome, *, ran_too_long: bool) -> FailureClass:
    """The class of an attempt that came to nothing."""
    return FailureClass.TIMEOUT if ran_too_long else _CLASSES[outcome.ending]


def ending_of(error: BaseException) -> Ending:
    """How an attempt ended whose stage raised this: out of memory, a full disk and a lost store are no fault of it."""
    for each in _causes(error):
        if isinstance(each, WorkersLost):
            return Ending.LOST
        if isinstance(each, MemoryError) or type(each).__name__ == "OutOfMemoryError":
            return Ending.NO_MEMORY
        if isinstance(each, RuntimeError) and any(words in str(each) for words in _MEMORY_WORDS):
            return Ending.NO_MEMORY  # torch on a CPU has no type of its own for it
        if isinstance(each, StoreError) or (isinstance(each, OSError) and each.errno in _DISK_TROUBLE):
            return Ending.STORAGE
    return Ending.FAILED


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether the node is tried again, and how. `note` is for people; `resources` is what to ask for from now on."""

    again: bool
    delay_s: float = 0.0
    note: str = ""
    resources: Resources | None = None


@dataclass(frozen=True, kw_only=True)
class Tries:
    """What was tried so far: the attempt's number, how many of them count, and how many do not."""

    attempt: int
    counted: int
    uncounted: int


def decide(
    outcome: Outcome,
    *,
    kind: FailureClass,
    retry: Retry,
    tries: Tries,
    held: Resources,
    shapes: Sequence[MachineShape],
    is_alone: bool,
    chance: str,
) -> Decision:
    """What to do after a failed attempt.

    Args:
        outcome: of the attempt.
        kind: its failure's class.
        retry: what the node's file says.
        tries: those so far, this one among them.
        held: resources that the attempt had.
        shapes: the machines there are.
        is_alone: whether nothing else could run beside it (an executor that runs one node at a time).
        chance: a text that differs from node to node and attempt to attempt, from which the jitter is drawn.
    """
    if outcome.ending in UNCOUNTED and kind is not FailureClass.TIMEOUT:
        again = tries.uncounted <= MAX_UNCOUNTED
        why = "" if again else f"{tries.uncounted} attempts ended like this one, which is the limit"
        return Decision(again=again, delay_s=min(MAX_BACKOFF_S, retry.backoff) if again else 0.0, note=why)
    hopeful = outcome.ending in RETRIED or (
        outcome.ending is Ending.FAILED and retry.on_error and outcome.error_type not in HOPELESS
    )
    if not hopeful or kind is FailureClass.TIMEOUT or tries.counted >= retry.attempts:
        return Decision(again=False)
    delay_s = min(MAX_BACKOFF_S, retry.backoff * 2 ** (tries.counted - 1))
    if kind is FailureClass.STORAGE:
        delay_s *= 1 + JITTER * random.Random(chance).uniform(-1, 1)  # noqa: S311 - spreads load, hides nothing
    if kind is not FailureClass.OUT_OF_MEMORY:
        return Decision(again=True, delay_s=delay_s)
    more = more_memory(outcome, held=held, shapes=shapes, is_alone=is_alone)
    if more is None:
        # Raised by the stage itself it would be raised again; a kill from outside may have been others' doing.
        again = outcome.process_id == 0
        return Decision(again=again, delay_s=delay_s if again else 0.0, note="it had the machine to itself (policy oom)")
    resources, words = more
    return Decision(again=True, delay_s=delay_s, note=f"attempt {tries.attempt + 1} will {words}", resources=resources)


def more_memory(
    outcome: Outcome, *, held: Resources, shapes: Sequence[MachineShape], is_alone: bool
) -> tuple[Resources, str] | None:
    """More for a node that ran out of memory, and in words what; None where it had all that a machine has.

    Twice what it had: what it asked for, else what its process used, else its share of the machine by CPUs. Where that is more
    than a machine has, it runs alone on one. Of a GPU it gets the share that twice the memory it held would be, or a whole one
    where that is not known or would be no more.
    """
    if "CUDA" in outcome.error:
        if not 0 < held.gpus < 1:
            return None
        share = gpu_share(2 * outcome.peak_gpu_bytes, outcome.gpu_bytes) if outcome.peak_gpu_bytes else 1.0
        share = share if share > held.gpus else 1.0
        larger = held.model_copy(update={"gpus": share})
        if not any(_fits(larger, shape) for shape in shapes):
            return None
        return larger, f"have {'a whole' if share == 1 else f'{share:g} of a'} GPU (policy oom: grow)"
    machines = [shape for shape in shapes if _fits(held, shape)]
    if is_alone or not machines:
        return None
    largest = max(machines, key=lambda shape: (shape.memory_bytes, shape.cpus))
    had_bytes = held.memory or outcome.peak_memory_bytes or int(largest.memory_bytes * min(1.0, held.cpus / largest.cpus))
    wanted = max(2 * had_bytes, (held.memory or 0) + 1)
    if held.workers > 1 and sum(shape.memory_bytes // wanted for shape in machines) < held.workers:
        return None
    if wanted < largest.memory_bytes:
        return held.model_copy(update={"memory": wanted}), f"use memory {wanted / 2**30:.2g}GiB (policy oom: grow)"
    if held.cpus >= largest.cpus and (held.memory or 0) >= largest.memory_bytes:
        return None
    alone = held.model_copy(update={"cpus": largest.cpus, "memory": largest.memory_bytes or None})
    return alone, "have its machine to itself (policy oom: run alone)"


def _fits(resources: Resources, shape: MachineShape) -> bool:
    return (
        resources.cpus <= shape.cpus
        and resources.gpus <= shape.gpus
        and (resources.memory or 0) <= shape.memory_bytes
        and all(amount <= shape.custom.get(name, 0) for name, amount in resources.custom.items())
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__

"""The actor that runs a node in several processes at once, through Ray Train; it holds nothing itself and waits for them.

Train places the workers (a placement group with one bundle each), starts torch.distributed among them and ends all of them
when one fails. The first of them runs the node as a stage host does, under the lease, and publishes; the others run the same
stage beside it. Train retries nothing and keeps no state: a lost worker is a lost attempt, and the scheduler's next one goes
on from the state that the first worker had saved.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray

from orchestrator.engine.executors.ray_host import Leaving, capture_descriptors
from orchestrator.engine.work import Ending, Outcome, Work
from orchestrator.engine.worker import Share, Worker, failure
from orchestrator.store.base import open_store
from stages.contract import Throttle, WorkersLost

_LOOK_EVERY_S = 0.5
_START_TIMEOUT_S = 300
"""For all workers to find a place on a cluster that others use, too."""

_TRAIN_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(_START_TIMEOUT_S),
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # what a stage prints goes into the attempt's own log
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
_PROCESS_ERRORS = (
    ray.exceptions.RayActorError,
    ray.exceptions.ActorDiedError,
    ray.exceptions.ActorUnavailableError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.NodeDiedError,
)
_PREFERRED = (Ending.DONE, Ending.SHARED, Ending.BUSY)
_CONSEQUENCES = (Ending.LOST,)
"""What a worker says that has lost the others: why, one of the others knows."""


class GangHost:
    """One attempt at one node by several workers; as `StageHost` to whoever calls it. Used once."""

    def __init__(self, store_url: str, run: str, workers: int, amounts: Mapping[str, float]) -> None:
        """`amounts`: what each worker holds, by resource name."""
        self._store_url, self._run, self._workers, self._amounts = store_url, run, workers, dict(amounts)
        self._is_cancelled = False
        self._leaving = Leaving(lambda: True)
        self._told: list[tuple[int, Outcome]] = []
        self._group: Any = None
        self._has_begun = threading.Event()

    def run(self, work_json: str, ticket: int) -> str:
        """Run one node in all workers; returns what became of it."""
        del ticket
        error = self._fit(work_json)
        outcome = self._outcome(error)
        if outcome.ending is Ending.CANCELLED and self._leaving.is_asked and not self._is_cancelled:
            outcome = replace(outcome, ending=Ending.PREEMPTED, error="its process was asked to leave (SIGTERM)")
        return outcome.to_json()

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    def cancel(self, ticket: int) -> None:
        """Ask the stage to stop at its next safe point."""
        del ticket
        self._is_cancelled = True

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    def is_stop_asked(self) -> bool:
        """Asked by the first worker, a few times a second."""
        return self._is_cancelled or self._leaving.is_asked

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    def tell(self, rank: int, outcome_json: str) -> None:
        """A worker's end, told before Train hears of it."""
        self._told.append((rank, Outcome.from_json(outcome_json)))

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    def begun(self, group: Any) -> None:
        """Told by the first worker as it begins: the placement group that holds what all of them have."""
        self._group = group
        self._has_begun.set()

    @ray.method(concurrency_group="waiting")  # type: ignore[untyped-decorator]
    def group(self) -> Any:
        """The placement group, once the workers have begun. Ray frees it with the job alone, so whoever kills removes it."""
        self._has_begun.wait()
        return self._group

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    def machine(self) -> str:
        """The name of the machine that Ray has chosen."""
        return str(ray.get_runtime_context().get_node_id())

    def _fit(self, work_json: str) -> Exception | None:
        os.environ.update(_TRAIN_SETTINGS)
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        gpus = self._amounts.get("GPU", 0)
        storage = tempfile.mkdtemp()  # Train wants one, and nothing is kept there
        told = {"host": ray.get_runtime_context().current_actor, "store": self._store_url, "run": self._run, "work": work_json}
        trainer = TorchTrainer(
            _work,
            train_loop_config=told,
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=self._workers, use_gpu=gpus > 0, resources_per_worker=self._amounts, placement_strategy="PACK"
            ),
            run_config=RunConfig(
                name="train",
                storage_path=storage,
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
            ),
        )
        try:
            trainer.fit()
        except Exception as error:  # noqa: BLE001 - Train's own errors have several bases
            return error
        finally:
            shutil.rmtree(storage, ignore_errors=True)
        return None

    def _outcome(self, error: Exception | None) -> Outcome:
        """What the first worker published, else the first failure that is no consequence of another."""
        first = [outcome for rank, outcome in self._told if rank == 0]
        if first and first[0].ending in _PREFERRED:
            return first[0]
        lost = _lost_worker(error)
        causes = [outcome for _, outcome in self._told if outcome.ending not in _CONSEQUENCES]
        if causes:
            return causes[0]
        if lost is None and self._told:
            return self._told[0][1]
        from orchestrator.engine.executors.ray import host_loss

        cause = lost or error or RuntimeError("no worker told how it ended")
        if isinstance(cause, ray.exceptions.OutOfMemoryError):
            return Outcome(ending=Ending.NO_MEMORY, error=_first_line(cause), error_type="OutOfMemoryError")
        ending, why = host_loss(cause, kill_asked=False)
        why = f"lost one of {self._workers} workers: {why}" if lost is not None else f"Ray Train ended: {_first_line(cause)}"
        return Outcome(ending=ending, error=why, error_type=type(cause).__name__, trace=str(cause))


def _lost_worker(error: Exception | None) -> Exception | None:
    """Why a worker's process did not answer, as Ray tells it."""
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {})
    for found in failures.values():
        each: BaseException | None = found
        while each is not None:
            if isinstance(each, Exception) and type(each) in _PROCESS_ERRORS:
                return each
            each = each.__cause__
    return None


def _work(told: Mapping[str, Any]) -> None:
    """One worker's part; runs in its process, in a thread of Train's."""
    import torch
    from ray import train
    from ray.train.torch import get_device

    context, device, host = train.get_context(), get_device(), told["host"]
    rank = context.get_world_rank()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if rank == 0:
        ray.get(host.begun.remote(ray.util.get_current_placement_group()))
    work = Work.from_json(told["work"])
    share = Share(rank=rank, workers=context.get_world_size(), device=str(device), meet=_meeting(device))
    worker = Worker(
        open_store(told["store"]),
        run=told["run"],
        capture=capture_descriptors,
        is_cancelled=_stop_sign(host) if rank == 0 else lambda: False,
        share=share,
    )
    try:
        outcome = worker.run_share(work)
    except WorkersLost as error:
        outcome = failure(Ending.LOST, error)
    finally:
        with suppress(Exception):
            worker.close()
    ray.get(host.tell.remote(rank, outcome.to_json()))
    if outcome.ending not in (*_PREFERRED, Ending.CANCELLED):
        raise RuntimeError(f"worker {rank}: {outcome.error}")  # so that Train ends the others, which may wait for this one


def _meeting(device: Any) -> Callable[[bool], bool]:
    """Whether the first worker goes on to the stage: it alone knows, all must know, and they meet here."""

    def meet(goes: bool) -> bool:  # noqa: FBT001 - a question with one answer
        import torch
        from torch import distributed

        answer = torch.tensor([int(goes)], device=device)
        try:
            distributed.broadcast(answer, src=0)
        except RuntimeError as error:
            raise WorkersLost("lost one of the workers before the stage began") from error
        return bool(answer)

    return meet


def _stop_sign(host: Any) -> Callable[[], bool]:
    """Whether the scheduler wants the stage to stop; it does where whoever could tell is gone."""
    due, is_asked = Throttle(_LOOK_EVERY_S), False

    def look() -> bool:
        nonlocal is_asked
        if not is_asked and due.ready():
            try:
                is_asked = bool(ray.get(host.is_stop_asked.remote()))
            except ray.exceptions.RayError:
                is_asked = True
        return is_asked

    return look


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__

"""Runs ONE node where it stands: lease -> inputs -> stage -> record -> commit. Knows no graph, no scheduler and no Ray.

Whatever happens is returned as an Outcome; an exception leaves `run_work` only where this process itself is broken.
"""

from __future__ import annotations

import os
import resource
import socket
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from orchestrator.engine.attempt_folders import AttemptFolders
from orchestrator.engine.checkpoints import NodeCheckpoints
from orchestrator.engine.gpu_memory import NO_GPU, begin_gpu_measurement, measured_gpu_peak
from orchestrator.engine.provenance import environment_versions
from orchestrator.engine.retries import ending_of
from orchestrator.engine.signals import StopNow
from orchestrator.engine.work import Ending, InputRef, Outcome, Work
from orchestrator.errors import IntegrityError, LeaseLost, StageFailed, StoreError
from orchestrator.store.artifacts import Artifacts, Record, checkpoint_workspace, content_digest, record_mark
from orchestrator.store.base import Store
from orchestrator.store.checkpoints import remove_mirrored
from orchestrator.store.lease import Holder, Lease, Leases
from orchestrator.store.ledger import Ledger, now_text
from orchestrator.store.processes import is_left_by_dead_process
from orchestrator.workflow.drift import source_digest
from orchestrator.workflow.identity import canonical_value
from stages.catalog import find_stage, load_implementation
from stages.contract import Artifact, Cancelled, Checkpoints, StageContext, StageResult, StageSpec, Throttle

PROGRESS_INTERVAL_S = 0.25
DURABLE_FROM_S = 1.0
"""What took less to make is not flushed to disk before it counts: it is verified on read, and made again after a loss of power
for less than the flush may cost on a busy disk."""

CaptureOutput = Callable[[Path], AbstractContextManager[None]]


@dataclass(frozen=True, kw_only=True)
class Share:
    """Which of several workers this is that run one node together; without others, the only one.

    `meet` is called by all of them before the stage, and by the first one also where it does not come to that: it gives its
    argument to the others, who go on if it is true. `device`: "" for what the order says.
    """

    rank: int = 0
    workers: int = 1
    device: str = ""
    meet: Callable[[bool], bool] = lambda goes: goes


class Worker:
    """Runs nodes one after the other against one store. `is_cancelled` is asked at each step of a stage."""

    def __init__(
        self,
        store: Store,
        *,
        run: str,
        capture: CaptureOutput,
        is_cancelled: Callable[[], bool],
        on_beat: Callable[[float], None] = lambda _age_s: None,
        share: Share = Share(),
    ) -> None:
        self.store = store
        self.artifacts = Artifacts(store)
        self.ledger = Ledger(store)
        self.leases = Leases(store, run=run, on_beat=on_beat)
        self.capture = capture
        self.is_cancelled = is_cancelled
        self.num_epochs = 0  # reported so far, by all stages
        self._share = share
        self._has_met = False
        self._folder = AttemptFolders(store)

    def run_work(self, work: Work) -> Outcome:
        """One attempt at one node."""
        try:
            standing = self._standing(work)
            if standing is not None:
                return _outcome(Ending.SHARED, standing)
            lease = self.leases.acquire(work.key, stale_version=work.stale_lease or None)
            if isinstance(lease, Holder):
                return Outcome(ending=Ending.BUSY, holder=lease.run)
            try:
                standing = self._standing(work)  # it may have been made between the look and the lease
                return _outcome(Ending.SHARED, standing) if standing is not None else self._make(work, lease)
            finally:
                self.store.release_blobs()
                with suppress(StoreError):  # what was published counts; without a beat the lease does not stand for long
                    self.leases.release(work.key)
        except Cancelled:
            return Outcome(ending=Ending.CANCELLED, error="the stage stopped as if asked to", error_type="Cancelled")
        except IntegrityError as error:
            return failure(Ending.DAMAGED_INPUT, error)
        except StageFailed as error:
            return failure(Ending.FAILED, error)
        except (StoreError, OSError) as error:
            return failure(Ending.STORAGE, error)
        except LeaseLost as error:
            return failure(Ending.LEASE_LOST, error)

    def run_share(self, work: Work) -> Outcome:
        """One attempt together with others: the first worker's outcome is that of the node."""
        if self._share.rank:
            return self._follow(work)
        try:
            return self.run_work(work)
        finally:
            if not self._has_met:
                self._share.meet(False)

    def _follow(self, work: Work) -> Outcome:
        """Run the stage beside the first worker. What it writes is what the first one writes, and is thrown away."""
        if not self._share.meet(True):
            return Outcome(ending=Ending.SHARED)
        spec = find_stage(work.stage)
        if spec is None:
            return Outcome(ending=Ending.FAILED, error=f"stage {work.stage} is not installed here", error_type="LookupError")
        try:
            inputs, _ = self._open_inputs(work)
            with self._folder.fresh() as folders:
                log_file = self.ledger.log_file(work.run, work.folder, work.attempt, worker=self._share.rank)
                with log_file as log, self.capture(log):
                    self._call_stage(work, spec, folders, inputs, Checkpoints(folders[1] / "none"), log)
        except Cancelled:
            return Outcome(ending=Ending.CANCELLED, error="the stage stopped as if asked to", error_type="Cancelled")
        except IntegrityError as error:
            return failure(Ending.DAMAGED_INPUT, error)
        except Exception as error:  # noqa: BLE001 - a stage may raise anything; it all becomes an outcome
            return failure(ending_of(error), error)
        finally:
            self.store.release_blobs()
        return Outcome(ending=Ending.DONE)

    def close(self) -> None:
        """Return what is held."""
        self.leases.close()
        self._folder.close()

    def _standing(self, work: Work) -> Record | None:
        record = self.artifacts.find(work.stage, work.key)
        if record is not None and work.forced and record_mark(record) == work.replaces:
            return None
        return record

    def _make(self, work: Work, lease: Lease) -> Outcome:
        spec = find_stage(work.stage)
        if spec is None:
            return Outcome(ending=Ending.FAILED, error=f"stage {work.stage} is not installed here", error_type="LookupError")
        inputs, digests = self._open_inputs(work)
        checkpoints = NodeCheckpoints(self.store, work.key, lease=lease, leases=self.leases)
        is_unfinished, is_abandoned = False, False
        try:
            with self._folder.fresh() as (output, scratch):
                started = time.monotonic()
                try:
                    begin_gpu_measurement()
                    with self.ledger.log_file(work.run, work.folder, work.attempt) as log, self.capture(log):
                        checkpoints.bring()
                        self._has_met = True
                        self._share.meet(True)
                        metrics, measurements = _checked(
                            self._call_stage(work, spec, (output, scratch), inputs, checkpoints, log, lease=lease)
                        )
                except Cancelled:
                    is_unfinished = True
                    raise
                except (LeaseLost, StopNow):
                    is_abandoned = True
                    raise
                except BaseException as error:  # noqa: BLE001 - a stage may raise anything; it all becomes an outcome
                    self.leases.confirm(lease)  # whoever took it over may have finished and removed the saved states
                    is_unfinished = True
                    return failure(ending_of(error), error, resumed=checkpoints.resumed)
                record = self._publish(work, spec, lease, output, metrics, measurements, digests, time.monotonic() - started)
        finally:
            checkpoints.close(send=is_unfinished, wait=not is_abandoned)
        self.store.remove_workspace(checkpoint_workspace(work.key))
        with suppress(StoreError):  # published is published; what is left behind is swept
            checkpoints.remove()
        return replace(_outcome(Ending.DONE, record), resumed=checkpoints.resumed)

    def _open_inputs(self, work: Work) -> tuple[dict[str, Artifact | Sequence[Artifact]], dict[str, str]]:
        digests: dict[str, str] = {}
        damaged: list[IntegrityError] = []

        def open_one(reference: InputRef) -> Artifact:
            record = self.artifacts.find(reference.stage, reference.key)
            if record is None:
                damaged.append(IntegrityError(f"input {reference.label} ({reference.key[:8]}) is no longer whole in the store"))
                return Artifact(kind="", key=reference.key, files={})
            digests[reference.key] = record.content_digest
            try:
                return replace(self.artifacts.open(record), label=reference.label)
            except IntegrityError as error:
                self.artifacts.set_aside(record)
                damaged.append(error)
                return Artifact(kind="", key=reference.key, files={})

        opened: dict[str, Artifact | Sequence[Artifact]] = {
            port: open_one(value) if isinstance(value, InputRef) else tuple(open_one(item) for item in value)
            for port, value in work.inputs.items()
        }
        if damaged:  # raised after all were looked at, so that all are made again at once
            raise damaged[0]
        return opened, digests

    def _call_stage(
        self,
        work: Work,
        spec: StageSpec,
        folders: tuple[Path, Path],
        inputs: Mapping[str, Any],
        checkpoints: Checkpoints,
        log: Path,
        *,
        lease: Lease | None = None,
    ) -> StageResult:
        """Without a lease it is one of several workers, and not the one that reports, saves states and is asked to stop."""
        throttle = Throttle(PROGRESS_INTERVAL_S)

        def report(*, step: int, total: int, metrics: Mapping[str, float], epoch: int | None = None) -> None:
            if lease is None:
                return
            if throttle.ready() or step >= total or epoch is not None:
                self.ledger.write_progress(
                    work.run, work.folder, attempt=work.attempt, step=step, total=total, metrics=metrics, epoch=epoch,
                    log_bytes=log.stat().st_size, gpu_bytes=measured_gpu_peak().peak_bytes,
                )  # fmt: skip
            self.num_epochs += epoch is not None

        def check_cancelled() -> None:
            if lease is None:
                return
            lease.check()
            if self.is_cancelled():
                raise Cancelled

        settings = spec.settings(**work.settings)
        if settings.data_identity() != work.identity.get("data"):
            raise ValueError(
                "the data are not those of the plan: their content has changed since, or this machine finds others at the same "
                "place. Submit again, with the same data on every machine"
            )
        implementation = load_implementation(spec)
        return implementation(
            StageContext(
                settings=settings,
                seed=work.seed,
                output=folders[0],
                scratch=folders[1],
                checkpoints=checkpoints,
                inputs=inputs,
                num_threads=work.num_threads,
                device=self._share.device or ("cuda" if work.use_gpu else "cpu"),
                rank=self._share.rank,
                world_size=self._share.workers,
                report=report,
                check_cancelled=check_cancelled,
            )
        )

    def _publish(
        self,
        work: Work,
        spec: StageSpec,
        lease: Lease,
        output: Path,
        metrics: Mapping[str, Any],
        measurements: Mapping[str, Any],
        input_digests: Mapping[str, str],
        seconds: float,
    ) -> Record:
        durable = seconds >= DURABLE_FROM_S
        files = self.artifacts.take_files(output, durable=durable)
        record = Record(
            key=work.key,
            stage=work.stage,
            kind=spec.output,
            identity=work.identity,
            files=files,
            metrics=metrics,
            measurements=measurements,
            content_digest=content_digest(files, metrics),
            input_digests=input_digests,
            source_digest=source_digest(spec.implementation),
            label=work.label,
            run=work.run,
            attempt=work.attempt,
            finished=now_text(),
            seconds=round(seconds, 4),
            provenance={**work.provenance, "versions": environment_versions(), "host": _host()},
        )
        self.leases.confirm(lease)
        return self.artifacts.publish(record, replaces=work.replaces, durable=durable)


def tidy(store: Store, leases: Leases, finished: Collection[str]) -> None:
    """Remove what killed processes left: half-made outputs, and the saved states of the nodes with these finished keys."""
    for name in list(store.workspaces("attempts")):
        if is_left_by_dead_process(name):
            store.remove_workspace(f"attempts/{name}")
    for key in list(store.workspaces("checkpoints")):
        if key in finished and isinstance(leases.acquire(key), Lease):  # under the lease: nobody is working there
            store.remove_workspace(checkpoint_workspace(key))
            leases.release(key)
    if store.shared_files() is not None:
        remove_mirrored(store, leases, [key for key in store.list("checkpoints") if key in finished])
    leases.sweep()
    store.sweep()


def _checked(result: StageResult) -> tuple[dict[str, Any], dict[str, Any]]:
    if not isinstance(result, StageResult):
        raise TypeError(f"the stage returned {type(result).__name__}; expected StageResult")
    metrics = canonical_value(dict(result.metrics), place="metrics")
    return metrics, canonical_value(dict(result.measurements), place="measurements")


def _outcome(ending: Ending, record: Record) -> Outcome:
    gpu = measured_gpu_peak() if ending is Ending.DONE else NO_GPU
    return Outcome(
        ending=ending,
        metrics={**record.metrics, **record.measurements},
        content_digest=record.content_digest,
        seconds=record.seconds,
        size_bytes=record.size_bytes,
        host=_host(),
        process_id=os.getpid(),
        peak_gpu_bytes=gpu.peak_bytes,
        gpu_bytes=gpu.gpu_bytes,
    )


def failure(ending: Ending, error: BaseException, *, resumed: Mapping[str, Any] | None = None) -> Outcome:
    """The outcome of an attempt that ended with an exception, here and now."""
    message = str(error) or type(error).__name__
    gpu = measured_gpu_peak()
    return Outcome(
        ending=ending,
        error=message,
        error_type=type(error).__name__,
        trace="".join(traceback.format_exception(error)),
        resumed=resumed or {},
        host=_host(),
        process_id=os.getpid(),
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        peak_gpu_bytes=gpu.peak_bytes,
        gpu_bytes=gpu.gpu_bytes,
    )


@lru_cache(maxsize=1)
def _host() -> str:
    return socket.gethostname()

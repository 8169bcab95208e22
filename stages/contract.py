"""What a stage is: typed settings, declared ports, and a function from a context to metrics.

This module must stay importable in milliseconds: it knows no torch, no store, no engine and no Ray. A stage can be run from
a notebook with a folder and a seed (see `local_context`); the engine merely fills the same context in.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict


class StageSettings(BaseModel):
    """Base of every stage's settings: frozen, unknown keys refused. Only these values (and data) reach an artifact's key."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=False)

    def data_identity(self) -> str | None:
        """Name, version and content digest of the data that the stage reads, or None where it reads none."""
        return None

    def refuse_workers(self, workers: int) -> None:
        """Raise ValueError where so many processes cannot share the work; asked of `data_parallel` stages alone."""


@dataclass(frozen=True, kw_only=True)
class Port:
    """One named input of a stage: the kind of artifact it takes, and whether it may be absent or take several."""

    kind: str
    optional: bool = False
    many: bool = False


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """The torch-free description of a stage: all that planning needs.

    `implementation` is "package.module:function"; the module is imported only where the stage runs. Raise `version` when
    the same settings must give another artifact (a changed default, a mended formula): old artifacts then stop being hits.
    `example` holds small settings with which the stage runs in seconds: documentation shows them, the contract suite runs them.
    `example_inputs` holds, by port, settings of the stage that makes that input, where its own example will not do;
    `example_stages` the name of that stage, where it is not the first of the catalog that makes such a kind.
    `forecast` is "package.module:function" too, imported only where forecasts are made (see `Forecast`); `forecast_metrics` are
    the metrics that it may know, where it knows its inputs.
    `data_parallel`: several processes may run the stage together (`StageContext.world_size`), torch.distributed being started;
    all write the same files, of which those of the first count.
    """

    name: str
    version: int
    summary: str
    settings: type[StageSettings]
    implementation: str
    output: str
    inputs: Mapping[str, Port] = field(default_factory=dict)
    metrics: Sequence[str] = ()
    source: str = ""
    example: Mapping[str, Any] = field(default_factory=dict)
    example_inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    example_stages: Mapping[str, str] = field(default_factory=dict)
    experimental: bool = False
    forecast: str = ""
    forecast_metrics: Sequence[str] = ()
    data_parallel: bool = False


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What is known of an artifact before it is made, from settings and shapes alone; empty where nothing is.

    A stage's forecast is a function `forecast(settings, inputs: Mapping[str, Forecast]) -> Forecast`, quick and pure, called
    where all required inputs are known; an optional one that is connected may be empty.

    Attributes:
        metrics: as the stage will report them; where training learns how many tokens to keep, what it is to end at.
        model: what forecasts of later stages go on from (`stages.models.skeleton.Skeleton`), where the artifact is a model.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    model: Any = None


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A finished artifact as a stage sees it: its files by name, its recorded metrics. Read-only."""

    kind: str
    key: str
    files: Mapping[str, Path]
    metrics: Mapping[str, Any] = field(default_factory=dict)
    stage: str = ""
    label: str = ""

    def file(self, name: str) -> Path:
        """Path of one file; raises ValueError that lists the names there are."""
        if name not in self.files:
            raise ValueError(
                f"artifact {self.key[:8]} ({self.kind}) has no file {name!r}; it has: {', '.join(sorted(self.files))}"
            )
        return self.files[name]


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What a stage hands back beside the files it wrote.

    `metrics` follow from settings, inputs and seed alone and belong to the artifact's content digest; `measurements` were
    read off a clock or a machine (latency, images per second) and do not: they differ from run to run.
    """

    metrics: Mapping[str, Any] = field(default_factory=dict)
    measurements: Mapping[str, Any] = field(default_factory=dict)


class Cancelled(Exception):
    """The stage was asked to stop; raised by `StageContext.check_cancelled` at a safe point."""


class TrainingDiverged(RuntimeError):
    """The loss or a weight stopped being finite. A failure of the settings, so it is not tried again."""


class WorkersLost(RuntimeError):
    """One of the processes that run a stage together does not answer the others. Worth another attempt."""


class Checkpoints:
    """Resumable states of one unfinished stage in a folder: each is whole or absent, the newest `keep` stay.

    A state is written beside its place, flushed and moved in by one rename, so a kill at any moment leaves the last one.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def latest(self) -> tuple[int, Path] | None:
        """Step and folder of the newest whole state, or None."""
        steps = self._steps()
        return (steps[-1], self.folder / f"{steps[-1]:012d}") if steps else None

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Call `write` with an empty folder and keep what it wrote as the state after `step` optimizer steps."""
        place = self.folder / f"{step:012d}"
        if place.exists():
            return
        for half_written in self.folder.glob("writing-*"):  # left by a killed attempt
            shutil.rmtree(half_written, ignore_errors=True)
        staging = self.folder / f"writing-{step:012d}-{os.getpid()}"
        staging.mkdir(parents=True)
        write(staging)
        for path in (*staging.rglob("*"), staging):
            flush_to_disk(path)
        staging.rename(place)
        flush_to_disk(self.folder)
        for old in self._steps()[: -self.keep]:
            shutil.rmtree(self.folder / f"{old:012d}", ignore_errors=True)

    def _steps(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())


def flush_to_disk(path: Path) -> None:
    """Flush (fsync) a file or a folder, so that what was written survives a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Reporter(Protocol):
    """Receives progress; may drop calls that come too fast, but none with an `epoch`.

    `epoch` is given by the one report that ends an epoch: its number from 1, and metrics of that epoch alone. Early stopping
    rests on these, so a stage that goes on from a saved state reports the epochs that it has behind it once more, first.
    """

    def __call__(self, *, step: int, total: int, metrics: Mapping[str, float], epoch: int | None = None) -> None: ...


@dataclass(frozen=True, kw_only=True)
class StageContext:
    """Everything a stage may touch: settings, inputs, a seed, a folder to write to, and three callbacks.

    Files written under `output` become the artifact. `scratch` is for temporary files and does not outlive the attempt.
    `num_threads` has been applied to torch by whoever calls the stage's function only where torch was loaded already, so a
    stage that trains calls `torch.set_num_threads(context.num_threads)` itself.
    `rank` tells which of `world_size` processes this is; more than one only where the stage is `data_parallel`. The first
    alone reports, saves states and is asked to stop.
    """

    settings: Any
    seed: int
    output: Path
    scratch: Path
    checkpoints: Checkpoints
    inputs: Mapping[str, Artifact | Sequence[Artifact]] = field(default_factory=dict)
    num_threads: int = 1
    device: str = "cpu"
    rank: int = 0
    world_size: int = 1
    report: Reporter = field(default=lambda **_: None)
    check_cancelled: Callable[[], None] = field(default=lambda: None)

    def input(self, name: str) -> Artifact:
        """The one artifact on port `name`; raises ValueError where it is absent or the port takes many."""
        value = self.inputs.get(name)
        if not isinstance(value, Artifact):
            raise ValueError(  # noqa: TRY004 - the settings of the workflow are wrong, not a type
                f"input {name!r} is not a single artifact; connected: {', '.join(sorted(self.inputs)) or 'none'}"
            )
        return value

    def optional_input(self, name: str) -> Artifact | None:
        """The artifact on an optional port, or None."""
        return self.input(name) if name in self.inputs else None

    def many(self, name: str) -> Sequence[Artifact]:
        """The artifacts on a port that takes many, in the workflow's order."""
        value = self.inputs.get(name, ())
        return (value,) if isinstance(value, Artifact) else value


def local_context(
    settings: StageSettings, *, folder: Path, seed: int = 0, inputs: Mapping[str, Artifact | Sequence[Artifact]] | None = None
) -> StageContext:
    """A context for a notebook or a test: everything under `folder`, progress ignored."""
    output, scratch = folder / "output", folder / "scratch"
    output.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(parents=True, exist_ok=True)
    return StageContext(
        settings=settings,
        seed=seed,
        output=output,
        scratch=scratch,
        checkpoints=Checkpoints(folder / "checkpoints"),
        inputs=inputs or {},
        num_threads=os.cpu_count() or 1,
    )


class Throttle:
    """True at most once per `interval_s` seconds, and always the first time."""

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self._last_s = float("-inf")

    def ready(self) -> bool:
        now_s = time.monotonic()
        if now_s - self._last_s < self.interval_s:
            return False
        self._last_s = now_s
        return True

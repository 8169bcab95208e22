"""Kills a run at one point after the other and lets the next one finish it; the programs beside it say what a run is.

    python PROGRAM FOLDER FIRST STEP LAST [half]             one kill, at point FIRST, FIRST + STEP, ...
    python PROGRAM FOLDER double SEED COUNT LAST             two kills in a row, at random points up to LAST

A point is a call that changes the disk, made by the store, by the saving of states, or by the worker's handling of folders;
with the word `requests`, a request to a server. Killing before each of them leaves every state that a kill can leave, save for
half-done writes: these are made with `half`; with `after`, the server has served the request. Forks for every run, so that what
is imported once is paid once: no threads here. Prints one JSON object: the number of kills, and every broken promise.
"""

from __future__ import annotations

import io
import json
import os
import pathlib
import random
import shutil
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import stages.contract
from orchestrator.store import local
from orchestrator.store.s3_client import S3Client

EFFECTS = {"open", "write", "fsync", "link", "replace", "unlink", "rename", "mkdir", "rmdir", "chmod", "fchmod"}


class Subject(Protocol):
    """A run as it is killed: how it is begun, what can be seen of it, and how it is ended."""

    def submit(self, folder: Path) -> str:
        """Run it; returns its final state."""

    def look(self, folder: Path) -> dict[str, Any]:
        """What a kill has left, as JSON; `problems` beside it."""

    def finish(self, folder: Path) -> dict[str, Any]:
        """Run it undisturbed, and look at everything; as JSON."""

    def compare(self, seen: dict[str, Any], end: dict[str, Any], reference: dict[str, Any]) -> list[str]:
        """The broken promises, each with what it cost in front (see `conftest.COSTS`)."""


class Killer:
    """Counts points, and kills this process before, in the middle of, or after number `at`."""

    def __init__(self, at: int, how: str) -> None:
        self.at = at
        self.how = how
        self.count = 0
        self._lock = threading.Lock()

    def call(self, name: str, real: Any, args: Any, kwargs: Any) -> Any:
        with self._lock:
            self.count += 1
            is_here = self.count == self.at
        if is_here and self.how == "after":
            with suppress(Exception):
                real(*args, **kwargs)
        if is_here and self.how == "half" and name == "write":
            real(args[0], args[1][: len(args[1]) // 2])
        if is_here:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    def watch_the_disk(self) -> None:
        for module, name in ((local, "os"), (stages.contract, "os"), (pathlib, "os"), (pathlib, "io"), (shutil, "os")):
            setattr(module, name, _Counted(io if name == "io" else os, self))

    def watch_requests(self) -> None:
        real = S3Client.call
        S3Client.call = lambda *args, **kwargs: self.call("request", real, args, kwargs)


class _Counted:
    def __init__(self, module: Any, killer: Killer) -> None:
        self.__dict__.update(_module=module, _killer=killer)

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._module, name)
        if name not in EFFECTS:
            return real
        return lambda *args, **kwargs: self._killer.call(name, real, args, kwargs)


def in_child(action: Callable[[], Any]) -> tuple[bool, Any]:
    """Run `action` in a fork: whether it lived to its end, and what it returned (as JSON)."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        status = 1
        try:
            os.write(writer, json.dumps(action()).encode())
            status = 0
        except BaseException as error:
            os.write(writer, json.dumps({"raised": repr(error)}).encode())
            raise
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        data = file.read()
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return not killed, json.loads(data) if data else None


class Series:
    """The kills of one subject, each in a folder of its own below `root`."""

    def __init__(self, subject: Subject, root: Path, words: list[str]) -> None:
        self.subject = subject
        self.root = root
        self.is_requests = "requests" in words
        self.how = next((word for word in words if word in ("half", "after")), "before")
        _, self.reference = in_child(lambda: subject.finish(root / "reference"))
        self.num_kills = 0
        self.problems: list[str] = []

    def one_after_the_other(self, first: int, step: int, last: int) -> bool:
        """Whether the end of the run was reached."""
        for point in range(first, last + 1, step):
            folder = self.root / str(point)
            killed = self._killed_at(folder, point, self.how)
            self._check(folder, f"killed {self.how} {point}")
            if not killed:
                return True
        return False

    def twice(self, seed: int, count: int, last: int) -> None:
        generator = random.Random(seed)
        for number in range(count):
            folder = self.root / str(number)
            points = [generator.randrange(1, last), generator.randrange(1, max(2, last // 2))]
            for point in points:
                how = generator.choice(["before", "after"] if self.is_requests else ["before", "before", "half"])
                self._killed_at(folder, point, how)
            self._check(folder, f"seed {seed}, killed at {points}")

    def _killed_at(self, folder: Path, point: int, how: str) -> bool:
        """Submit, killed at the point; False if the run ended before it."""

        def action() -> str:
            killer = Killer(point, how)
            (killer.watch_requests if self.is_requests else killer.watch_the_disk)()
            return self.subject.submit(folder)

        lived, answer = in_child(action)
        if lived and answer != "done":
            raise RuntimeError(f"the run was not killed, and did not end well: {answer}")
        self.num_kills += not lived
        return not lived

    def _check(self, folder: Path, where: str) -> None:
        """Look after the kill, finish, and compare with the undisturbed run."""
        lived, answer = in_child(lambda: [self.subject.look(folder), self.subject.finish(folder)])
        if not lived or "raised" in answer:
            problems = [f"other: looking, or the next run, raised {answer and answer['raised']}"]
        else:
            problems = self.subject.compare(*answer, self.reference)
        self.problems += [f"{problem} ({where})" for problem in problems]
        shutil.rmtree(folder)


def main(subject: Subject, arguments: list[str]) -> None:
    """Run a series as the command line says, and print what came of it."""
    words = [word for word in arguments if word in ("half", "after", "requests")]
    root, *rest = [argument for argument in arguments if argument not in words]
    series, ended = Series(subject, Path(root), words), False
    if rest[0] == "double":
        series.twice(*map(int, rest[1:4]))
    else:
        ended = series.one_after_the_other(*map(int, rest[:3]))
    print(json.dumps({"kills": series.num_kills, "problems": series.problems, "ended": ended}))

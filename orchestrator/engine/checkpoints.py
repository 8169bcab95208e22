"""Saved states of the node that a worker runs: in a folder of this machine, and copied to the store where others share it.

Copies are made by a thread beside the training, of the newest state only, and never for more than a tenth of the time; a node
that is asked to stop sends its last one before it goes. Knows no stage and no scheduler.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.errors import IntegrityError, LeaseLost
from orchestrator.store.artifacts import checkpoint_workspace
from orchestrator.store.base import Store
from orchestrator.store.checkpoints import SavedStates
from orchestrator.store.lease import Lease, Leases
from stages.contract import Checkpoints

MIN_INTERVAL_S = 10.0
MAX_SHARE = 0.1
"""Of the time that may go into copying: a state that took a second to send is followed by the next no sooner than ten later."""


_HELD = "held-"


class NodeCheckpoints(Checkpoints):
    """The saved states as a stage sees them; in a store that machines share each is also offered to the others."""

    def __init__(self, store: Store, key: str, *, lease: Lease, leases: Leases) -> None:
        super().__init__(store.workspace(checkpoint_workspace(key), make=False))
        files = store.shared_files()
        self.resumed: dict[str, Any] = {}
        """Step from which the stage goes on, and where that state was: "disk" or "store"; empty where it begins anew."""
        self._states = (
            None
            if files is None
            else SavedStates(store, files, key, token=lease.holder.token, confirm=lambda: leases.confirm(lease))
        )
        self._sender = None if self._states is None else _Sender(self._states, lease, self.folder)
        self._fetched: dict[int, str] = {}  # step: host that saved it

    def bring(self) -> None:
        """Copy the newest state from the store where it is newer than what this machine has; a damaged one is reported."""
        if self._states is None:
            return
        for left in self.folder.glob(f"{_HELD}*"):  # by a killed attempt
            shutil.rmtree(left, ignore_errors=True)
        here = self._steps()
        for state in self._states.open():
            if here and state.step <= here[-1]:
                return
            staging = self.folder / f"{_HELD}fetched"
            shutil.rmtree(staging, ignore_errors=True)
            try:
                staging.mkdir(parents=True)
                self._states.fetch(state, staging)
            except IntegrityError as error:
                shutil.rmtree(staging, ignore_errors=True)
                _say(f"the state of step {state.step} in the store is damaged and is not used: {error.message}")
                self.resumed.setdefault("damaged_steps", []).append(state.step)
                continue
            staging.rename(self.folder / f"{state.step:012d}")
            self._fetched[state.step] = state.host
            return

    def latest(self) -> tuple[int, Path] | None:
        found = super().latest()
        if found is not None and "step" not in self.resumed:
            step = found[0]
            if step in self._fetched:
                self.resumed |= {"step": step, "from": "store", "host": self._fetched[step]}
                _say(f"step {step} was saved on {self._fetched[step]} and fetched from the store")
            else:
                self.resumed |= {"step": step, "from": "disk"}
        return found

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        super().save(step, write)
        if self._sender is not None:
            self._sender.offer(step, self.folder / f"{step:012d}")

    def close(self, *, send: bool, wait: bool = True) -> None:
        """Stop copying; `send`: the newest state goes first, since somebody else may have to go on from it.

        Without `wait` a copy under way is left to itself; it comes to nothing where the lease is lost or the process ends.
        """
        if self._sender is not None:
            self._sender.close(send=send, wait=wait)

    def remove(self) -> None:
        """The node is finished: nobody needs its copies any more."""
        if self._states is not None:
            self._states.remove()


class _Sender:
    """Copies the newest state that was offered, in a thread that begins with the first."""

    def __init__(self, states: SavedStates, lease: Lease, folder: Path) -> None:
        self._states = states
        self._lease = lease
        self._folder = folder
        self._newest: tuple[int, Path] | None = None
        self._taken_step = -1
        self._due_s = 0.0
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._offered = threading.Event()
        self._thread: threading.Thread | None = None

    def offer(self, step: int, state: Path) -> None:
        """Take a state to be sent; the caller may remove its own soon after."""
        if step == self._taken_step:  # saved again by a stage that was stopped right after it had saved
            return
        self._taken_step = step
        held = self._folder / f"{_HELD}{step:012d}"
        with suppress(FileExistsError):
            shutil.copytree(state, held, copy_function=_link)
        with self._lock:
            replaced, self._newest = self._newest, (step, held)
        if replaced is not None and replaced[1] != held:
            shutil.rmtree(replaced[1], ignore_errors=True)
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep_sending, name="checkpoints", daemon=True)
            self._thread.start()
        self._offered.set()

    def close(self, *, send: bool, wait: bool) -> None:
        self._ending.set()
        self._offered.set()
        if self._thread is not None and wait:
            self._thread.join()
        if send:
            with suppress(LeaseLost):
                self._send()

    def _keep_sending(self) -> None:
        while not self._ending.is_set():
            self._offered.wait()
            self._offered.clear()
            if self._ending.wait(max(0.0, self._due_s - time.monotonic())):
                return
            try:
                self._send()
            except LeaseLost:
                self._lease.lost = True  # the stage stops at its next step
                return

    def _send(self) -> None:
        with self._lock:
            newest, self._newest = self._newest, None
        if newest is None:
            return
        step, held = newest
        began_s = time.monotonic()
        try:
            self._states.add(step, held, host=socket.gethostname())
        except LeaseLost:
            raise
        except Exception as error:  # noqa: BLE001 - whatever keeps a copy from being made must not cost the training itself
            _say(f"the state of step {step} could not be copied to the store: {error}")
            with self._lock:
                is_newest = self._newest is None
                if is_newest:
                    self._newest = newest
                    self._offered.set()
        else:
            is_newest = False
        if not is_newest:
            shutil.rmtree(held, ignore_errors=True)
        self._due_s = began_s + max(MIN_INTERVAL_S, (time.monotonic() - began_s) / MAX_SHARE)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - what is printed while a stage runs is its log

"""Telling someone of a run: a program or a web address, at most once for each event and rule of the workflow.

Who tells creates a mark in the run's ledger first, so that a run that is followed twice or dies half way tells nobody twice;
one that is killed tells nobody. What is told holds no setting and no path, and an address is never written anywhere.
"""

from __future__ import annotations

import json
import os
import shlex
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.store.ledger import Ledger
from orchestrator.workflow.notify_spec import Notify
from orchestrator.workflow.workflow_spec import Workflow

SCHEMA = 1


class Notices:
    """What one run tells, and to whom. Without rules it does nothing."""

    def __init__(self, workflow: Workflow, *, run: str, ledger: Ledger) -> None:
        self.workflow = workflow
        self.run = run
        self.ledger = ledger
        self._constrained = {name for name, sweep in workflow.sweeps.items() if sweep.sweep.constraints}
        self._met: set[str] = set()
        self._sending: list[threading.Thread] = []
        self._not_told: list[str] = []

    def happened(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Look for the first trial of each sweep that meets all constraints; what is sent then keeps nothing waiting."""
        if not self.workflow.notify:
            return
        for event in events:
            if event["type"] != "trial_ended" or event["state"] != "done" or event["violated"] or event.get("known"):
                continue
            sweep = event["sweep"]
            if sweep in self._constrained and sweep not in self._met:
                self._met.add(sweep)
                text = f"trial {event['trial']} meets the constraints of sweep {sweep}"
                notice = self._notice("constraint_met", "running", text, trial=event["trial"], metrics=event["metrics"])
                self._tell("constraint_met", notice, mark=f"constraint_met-{sweep}")

    def ended(self, state: str, *, unmet: Mapping[str, str], error: str = "") -> list[str]:
        """Tell how the run has ended; a run that was asked to stop tells nothing. Waits until all has been sent.

        Returns why what did not arrive did not.
        """
        if self.workflow.notify and state in ("done", "failed"):
            event = "success" if state == "done" and not unmet else "failure"
            what = "; ".join(unmet.values()) or error
            text = f"{state}{f': {what}' if what else ''}"
            self._tell(event, self._notice(event, state, text), mark=event)
        for thread in self._sending:
            thread.join()
        return self._not_told

    def _notice(self, event: str, state: str, what: str, **details: Any) -> dict[str, Any]:
        """`text` is what chat services show of it."""
        text = f"run {self.run} of {self.workflow.name}: {what}"
        return {
            "schema": SCHEMA, "event": event, "run": self.run, "workflow": self.workflow.name, "state": state, "text": text,
            **details,
        }  # fmt: skip

    def _tell(self, event: str, notice: Mapping[str, Any], *, mark: str) -> None:
        for number, rule in enumerate(self.workflow.notify):
            name = f"{mark}-{number}"
            if event in rule.on and self.ledger.claim_notice(self.run, name):
                thread = threading.Thread(target=self._send, args=(rule, notice, name), name="notice", daemon=True)
                thread.start()
                self._sending.append(thread)

    def _send(self, rule: Notify, notice: Mapping[str, Any], name: str) -> None:
        how = "command" if rule.command else "webhook"
        try:
            (_run_command if rule.command else _post)(rule, notice)
            error = ""
        except Exception as problem:  # noqa: BLE001 - whatever a program or a server does, the run has ended as it has
            error = _reason(problem)
            self._not_told.append(f"notify, {how} on {notice['event']}: {error}")
        self.ledger.settle_notice(self.run, name, how=how, error=error)


def _run_command(rule: Notify, notice: Mapping[str, Any]) -> None:
    import subprocess

    variables = {f"ORCHESTRATOR_{name.upper()}": str(notice[name]) for name in ("event", "run", "workflow", "state", "text")}
    done = subprocess.run(  # noqa: S603 - the workflow's author asks for it, and `submit` is how it is run
        shlex.split(rule.command), input=json.dumps(notice), text=True, timeout=rule.timeout, check=False,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **variables},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{shlex.split(rule.command)[0]} ended with exit code {done.returncode}")


def _post(rule: Notify, notice: Mapping[str, Any]) -> None:
    import urllib.request

    address = os.environ.get(rule.webhook_variable, "")
    if not address.startswith(("http://", "https://")):
        found = "holds no http address" if address else "is not set"
        raise RuntimeError(f"variable {rule.webhook_variable} {found}")
    data = json.dumps(notice).encode()
    request = urllib.request.Request(address, data=data, headers={"Content-Type": "application/json"})  # noqa: S310 - checked
    with urllib.request.urlopen(request, timeout=rule.timeout):  # noqa: S310
        pass


def _reason(problem: Exception) -> str:
    """Why, without the address: it may be a secret, and some errors quote it."""
    import subprocess
    import urllib.error

    if isinstance(problem, urllib.error.HTTPError):
        return f"the server answered {problem.code}"
    if isinstance(problem, urllib.error.URLError):
        return f"the server cannot be reached ({type(problem.reason).__name__})"
    if isinstance(problem, subprocess.TimeoutExpired):
        return f"it did not end within {problem.timeout:.2g} s"
    if isinstance(problem, (RuntimeError, FileNotFoundError, PermissionError)):
        return str(problem)
    return type(problem).__name__

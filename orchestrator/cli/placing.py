"""Where a run goes: the flags of `submit`, `resume` and `retry`, above the profile, above what a continued run had."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import click

from orchestrator import api
from orchestrator.cli.shell import Shell
from orchestrator.errors import UsageError

ExecutorChoice = Literal["ray", "inline"]
Function = Callable[..., Any]
EXECUTOR = click.option(
    "--executor", type=click.Choice(["ray", "inline"]),
    help="ray: processes of Ray; inline: one node at a time, in this process.",
)  # fmt: skip
"""For the commands that know no cluster."""


@dataclass(frozen=True, kw_only=True)
class Where:
    """`jobs_address` is that of a cluster that is to run it as a job; else the run is driven from here, on `place`."""

    executor: ExecutorChoice = "ray"
    place: api.RayPlace = field(default_factory=api.RayPlace)
    jobs_address: str = ""
    detach: bool = False
    python: str = ""
    environment: Mapping[str, str] | None = None


def placing(function: Function) -> Function:
    """The options that say where; their values come as `placed`, for `choose_place`."""
    options = (
        click.option(
            "--executor", type=click.Choice(["ray", "inline"]),
            help="ray (the default): processes of Ray; inline: one node at a time, in this process.",
        ),
        click.option(
            "--address", metavar="ADDRESS",
            help="A cluster: http://HEAD:8265 runs it there as a job; auto or HOST:6379 attaches from here.",
        ),
        click.option("--detach", is_flag=True, help="With a job: return as soon as the cluster has it."),
        click.option("--num-cpus", metavar="N", type=click.IntRange(min=1), help="Cores of the Ray that is started here."),
        click.option("--store-is-shared", is_flag=True, help="The store is a folder that all machines mount at this path."),
        click.option("--python", metavar="PATH", help="Interpreter on the cluster (the one that runs its Ray)."),
        click.option(
            "--pass-env", metavar="NAME", multiple=True,
            help="Give the job this variable of here; whoever sees the cluster's jobs sees its value. Repeatable.",
        ),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def choose_place(
    shell: Shell, placed: Mapping[str, Any], *, dashboard: bool = False, before: Mapping[str, Any] | None = None
) -> Where:
    """The flags of `placing`, completed by the profile and by the request of the run that is continued.

    UsageError where they contradict each other.
    """
    profile, before = shell.profile, before or {}
    cluster = before.get("cluster", {})
    asked_here = placed["executor"] == "inline"
    address = placed["address"] or ("" if asked_here else profile.address or cluster.get("address", ""))
    recorded: ExecutorChoice = "inline" if before.get("executor") == "inline" else "ray"
    executor = placed["executor"] or ("ray" if address else profile.executor or recorded)
    if address and executor == "inline":
        raise UsageError("--address is a cluster's, and --executor inline runs in this process", next_step="leave one out")
    if dashboard and (executor == "inline" or address):
        why = "a cluster has its own" if address else "--executor inline runs without Ray"
        raise UsageError(f"--dashboard is of the Ray that is started here, and {why}", next_step="leave one of the two out")
    is_job = address.lower().startswith(("http://", "https://"))
    if address and not is_job and not re.fullmatch(r"auto|ray://.*|.+:[0-9]+", address):
        raise UsageError(
            f'--address "{address}" is no address; expected http://HEAD:8265 for a job, auto or HOST:6379 to attach',
            next_step="--address http://HEAD:8265",
        )
    if address.startswith("ray://"):
        raise UsageError(
            f"--address {address}: Ray Client is not used; a run must survive the terminal it came from",
            next_step="--address http://HEAD:8265",
        )
    for flag, is_given in (
        ("--detach", placed["detach"]), ("--pass-env", placed["pass_env"]), ("--python", placed["python"])
    ):  # fmt: skip
        if is_given and not is_job:
            raise UsageError(f"{flag} goes with a job on a cluster", next_step=f"--address http://HEAD:8265 {flag} ...")
    place = api.RayPlace(
        address=address,
        num_cpus=placed["num_cpus"] or profile.num_cpus,
        dashboard=dashboard or (profile.dashboard and executor == "ray" and not address),
        store_is_shared=placed["store_is_shared"] or profile.store_is_shared or bool(cluster.get("store_is_shared")),
    )
    return Where(
        executor=executor,
        place=place,
        jobs_address=address if is_job else "",
        detach=placed["detach"],
        python=placed["python"] or profile.python,
        environment=_passed([*profile.pass_env, *placed["pass_env"]]) if is_job else None,
    )


def _passed(names: list[str]) -> dict[str, str]:
    for name in names:
        if name.startswith("RAY_AUTH"):
            raise UsageError(f"--pass-env {name}: the cluster has its token; it must not stand in a job's description")
        if name not in os.environ:
            raise UsageError(f"--pass-env {name}: there is no such variable here", next_step=f"export {name}=...")
    return {name: os.environ[name] for name in names}

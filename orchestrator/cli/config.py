"""`config show`: what is in force in this call, and where each of it comes from. Secrets are never among it."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.cli.group import CONTEXT, LazyGroup, Verb, command, pass_shell
from orchestrator.cli.shell import Shell

config = LazyGroup(
    "config",
    help="Show the settings in force, and where each comes from; set those of a profile.",
    context_settings=CONTEXT,
    verbs={
        "show": Verb("orchestrator.cli.config:show_config", "Show the settings in force, and where each comes from."),
        "set": Verb("orchestrator.cli.config_set:set_config", "Set one setting of a profile."),
    },
    example="orchestrator config show",
)

TOLD_ABOVE = {"store", "executor", "address"}
"""Settings of a profile that others can take the place of."""


@command("show", example="orchestrator config show --store s3://lab/artifacts")
@pass_shell
def show_config(shell: Shell) -> int:
    """Show the settings in force, and where each comes from: flag, variable, default.

    A flag stands above the profile (--profile), which stands above variables.
    """
    from orchestrator.report.text import Column, format_table

    rows = settings_in_force(shell)
    if shell.as_json:
        shell.document({"settings": rows})
        return 0
    columns = [Column("SETTING"), Column("VALUE"), Column("FROM")]
    shell.data(format_table(columns, [list(row.values()) for row in rows], style=shell.style, width=shell.width))
    return 0


def settings_in_force(shell: Shell) -> list[dict[str, str]]:
    """Each setting: its name, its value, and its source."""
    from orchestrator.cli.profiles import VARIABLE, profiles_file
    from orchestrator.store.base import DEFAULT_STORE, STORE_VARIABLE
    from orchestrator.store.cache import CACHE_VARIABLE, SIZE_VARIABLE, cache_folder

    def source(variable: str, *, flag: str = "") -> str:
        if flag:
            return flag
        return f"${variable}" if os.environ.get(variable) else "default"

    def first(*variables: str) -> tuple[str, str]:
        found = next((name for name in variables if os.environ.get(name)), "")
        return os.environ.get(found, "") or "as the AWS client finds it", f"${found}" if found else "default"

    profile = shell.profile
    place = shell.store_url or profile.store or os.environ.get(STORE_VARIABLE) or DEFAULT_STORE
    by_profile = f"profile {shell.profile_name}"
    store_flag = "--store" if shell.store_url else by_profile if profile.store else ""
    colour = (
        "--no-color" if shell.no_color else "$NO_COLOR" if os.environ.get("NO_COLOR")
        else "$TERM" if os.environ.get("TERM") == "dumb" else "default"
    )  # fmt: skip
    rows = [
        (
            "store",
            place if "://" in place else str(Path(place).absolute()),
            source(STORE_VARIABLE, flag=store_flag),
        ),
        ("colours", "only on a terminal" if colour == "default" else "none", colour),
        ("executor", profile.executor or "ray", by_profile if profile.executor else "default of submit --executor"),
        ("cluster", profile.address or "none: this machine", by_profile if profile.address else "default of submit --address"),
        ("profiles", str(profiles_file()), source(VARIABLE)),
        *((name, _shown(getattr(profile, name)), by_profile) for name in sorted(profile.model_fields_set - TOLD_ABOVE)),
    ]
    if place.startswith("s3://"):
        size = os.environ.get(SIZE_VARIABLE) or "50 GiB, or a quarter of the disk"
        rows += [("cache", str(cache_folder()), source(CACHE_VARIABLE)), ("cache size", size, source(SIZE_VARIABLE))]
        rows.append(("S3 region", *first("AWS_REGION", "AWS_DEFAULT_REGION")))
        endpoint, origin = first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        rows.append(("S3 endpoint", _without_user(endpoint), origin))
    return [{"name": name, "value": value, "source": origin} for name, value, origin in rows]


def _shown(value: object) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value).lower() if isinstance(value, bool) else str(value)


def _without_user(url: str) -> str:
    """An address without the name and the password that may stand in it."""
    scheme, mark, rest = url.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}" if mark else url

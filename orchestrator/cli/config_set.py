"""`config set`: one setting of a profile, written into the user's file, in which all else stays as it is."""

from __future__ import annotations

import json
import os
import re
import tomllib
from typing import Any, get_args

import click

from orchestrator.cli.files import write_file
from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.profiles import Profile, profiles_file, read_profile
from orchestrator.cli.shell import Shell
from orchestrator.errors import UsageError

NAME = re.compile(r"[A-Za-z0-9_-]+")
NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@command("set", example="orchestrator config set gpu8.address http://head:8265")
@click.argument("setting", metavar="PROFILE.SETTING")
@click.argument("value")
@pass_shell
def set_config(shell: Shell, setting: str, value: str) -> int:
    """Set one setting of a profile, for --profile to choose.

    SETTING is address, store, executor, num_cpus, dashboard, store_is_shared,
    python, usd_per_gpu_hour, usd_per_cpu_hour or pass_env (names with commas
    between); an empty VALUE takes it away.
    """
    profile, _, name = setting.partition(".")
    if not NAME.fullmatch(profile) or name not in Profile.model_fields:
        raise UsageError(
            f'"{setting}" is no setting of a profile; expected PROFILE.SETTING with a setting of '
            f"{', '.join(Profile.model_fields)}",
            next_step="orchestrator config set gpu8.address http://head:8265",
        )
    file = profiles_file()
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    read_profile(text, profile, file=file, may_be_absent=True)  # what is wrong already is told before anything is changed
    found = _value(name, value) if value else None
    changed = _with_setting(text, profile, name, found)
    wanted = tomllib.loads(text)
    wanted.setdefault(profile, {}).pop(name, None)
    if found is not None:
        wanted[profile][name] = found
    if _content(changed) != wanted:
        raise UsageError(f"{file} is written in a way that cannot be changed from here", next_step=f"edit {file}")
    read_profile(changed, profile, file=file)
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    write_file(str(beside), changed.encode())
    beside.replace(file)
    if shell.as_json:
        shell.document({"file": str(file), "profile": profile, "setting": name, "value": found})
    else:
        shell.say(f"{file}: [{profile}] {name} {f'= {_toml(found)}' if found is not None else 'taken away'}")
        shell.say(f"next: orchestrator config show --profile {profile}")
    return 0


def _value(name: str, text: str) -> Any:
    """`text` as the setting wants it; what fits none is left to the profile's own check."""
    if name == "pass_env":
        return [word.strip() for word in text.split(",") if word.strip()]
    kind = Profile.model_fields[name].annotation
    if kind is bool and text.lower() in (*TRUE, *FALSE):
        return text.lower() in TRUE
    if int in get_args(kind) and text.isdecimal():
        return int(text)
    return float(text) if float in get_args(kind) and NUMBER.fullmatch(text) else text


def _with_setting(text: str, profile: str, name: str, value: Any) -> str:
    """The file's text with one line of the profile's table replaced, added or, for None, removed."""
    lines = text.splitlines()
    head = next((index for index, line in enumerate(lines) if line.split("#")[0].strip() == f"[{profile}]"), None)
    if head is None:
        lines += [*([""] if lines and lines[-1] else []), f"[{profile}]"]
        head = len(lines) - 1
    end = next((index for index in range(head + 1, len(lines)) if lines[index].lstrip().startswith("[")), len(lines))
    place = next((index for index in range(head + 1, end) if lines[index].partition("=")[0].strip() == name), None)
    new = [] if value is None else [f"{name} = {_toml(value)}"]
    if place is None:
        last = max(index for index in range(head, end) if index == head or lines[index].strip())
        lines[last + 1 : last + 1] = new
    else:
        lines[place : place + 1] = new
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)  # for text, whole numbers, truth values and lists of text TOML is as JSON


def _content(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except ValueError:
        return None

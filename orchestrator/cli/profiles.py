"""Profiles: named places to run, in a small TOML file of the user's. A profile never reaches a key: it says where, not what.

[gpu8]
address = "http://head:8265"
store = "s3://lab/artifacts"
pass_env = ["HF_HOME"]
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.errors import UsageError

VARIABLE = "ORCHESTRATOR_PROFILES"


class Profile(BaseModel):
    """What a profile may say; a flag of the call stands above it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    address: str = Field("", description="of a cluster: http://HEAD:8265 submits a job, HOST:6379 or auto attaches")
    store: str = Field("", description="folder or s3://bucket/prefix")
    executor: Literal["ray", "inline"] | None = None
    num_cpus: int | None = Field(None, ge=1, description="cores of the run's own Ray")
    dashboard: bool = Field(False, description="start Ray's dashboard with the run's own Ray")
    store_is_shared: bool = Field(False, description="the folder store is mounted at this path on every machine")
    python: str = Field("", description="interpreter on the cluster")
    usd_per_gpu_hour: float | None = Field(None, gt=0, description="price of a GPU, for plans and budgets in money")
    usd_per_cpu_hour: float | None = Field(None, gt=0, description="price of a CPU core, likewise")
    pass_env: list[str] = Field(default_factory=list, description="variables whose values a job gets")


def profiles_file() -> Path:
    """$ORCHESTRATOR_PROFILES, else profiles.toml of the user's configuration folder."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "orchestrator" / "profiles.toml"


def load_profile(name: str) -> Profile:
    """The profile called `name`; UsageError says what the file has, or what in it is wrong."""
    file = profiles_file()
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(
            f'--profile "{name}": there is no {file}', next_step=f"orchestrator config set {name}.address http://HEAD:8265"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}", next_step="see docs/cluster.md for its form") from error
    return read_profile(text, name, file=file)


def read_profile(text: str, name: str, *, file: Path, may_be_absent: bool = False) -> Profile:
    """The profile called `name` in the text of `file`; UsageError says what the file has, or what in it is wrong."""
    try:
        content = tomllib.loads(text)
    except ValueError as error:
        raise UsageError(f"{file} cannot be read: {error}", next_step="see docs/cluster.md for its form") from error
    if name not in content and not may_be_absent:
        names = ", ".join(content) or "no profile"
        raise UsageError(
            f'--profile "{name}" is not in {file}, which has {names}',
            next_step=f"orchestrator config set {name}.address http://HEAD:8265",
        )
    try:
        return Profile.model_validate(content.get(name, {}))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"{file}: profile {name}: {field or 'the profile'}: {first['msg'].lower()}",
            next_step=f"the settings of a profile are {', '.join(Profile.model_fields)}",
        ) from None

"""The token of a Ray cluster, found where Ray itself looks for it. It is never printed, logged or written anywhere."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

from orchestrator.errors import ClusterError

HOW = "set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file with it, or keep it in ~/.ray/auth_token"


def find_token() -> str:
    """The token of RAY_AUTH_TOKEN, of the file RAY_AUTH_TOKEN_PATH, or of ~/.ray/auth_token; "" where there is none.

    Raises ClusterError where RAY_AUTH_TOKEN_PATH names a file that cannot be read.
    """
    given = os.environ.get("RAY_AUTH_TOKEN", "").strip()
    if given:
        return given
    path = os.environ.get("RAY_AUTH_TOKEN_PATH", "")
    try:
        return (Path(path) if path else Path.home() / ".ray" / "auth_token").read_text().strip()
    except (OSError, UnicodeDecodeError, RuntimeError) as error:
        if path:
            raise ClusterError(f"RAY_AUTH_TOKEN_PATH={path} cannot be read: {error}", next_step=HOW) from error
        return ""


def choose_mode(environment: MutableMapping[str, str]) -> None:
    """Set RAY_AUTH_MODE where nobody has: Ray reads it once, when it is imported, and a client does not ask the cluster.

    With a token at hand it is used: a cluster that wants none takes no notice of it.
    """
    if "RAY_AUTH_MODE" not in environment and find_token():
        environment["RAY_AUTH_MODE"] = "token"

"""Stages called as functions: where they run, and what they made as the input of others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from stages.contract import Artifact, StageContext, local_context
from stages.models.bundle import ModelBundle, save_bundle


def context_in(folder: Path, settings, **inputs) -> StageContext:
    """With one thread: beside other work, more of them wait for each other most of the time."""
    return replace(local_context(settings, folder=folder, inputs=inputs), num_threads=1)


def artifact_of(folder: Path, kind: str = "model", *, label: str = "") -> Artifact:
    """The files of a folder as an artifact."""
    return Artifact(kind=kind, key="0" * 64, files={path.name: path for path in folder.iterdir()}, label=label)


def saved(bundle: ModelBundle, folder: Path) -> Artifact:
    """A model as an artifact."""
    save_bundle(bundle, folder)
    return artifact_of(folder)

"""A model from elsewhere as an artifact: its identity is what its files hold, so that equal models are one artifact.

Its files are checked as far as that goes without torch; what they hold is checked in full by the stage that loads them.
"""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any, NoReturn

from orchestrator.errors import UsageError
from orchestrator.store.artifacts import Artifacts, Record, content_digest
from orchestrator.store.ledger import now_text
from orchestrator.store.processes import process_mark
from orchestrator.workflow.identity import artifact_key
from stages.ops.tensor_header import read_header

STAGE = "import.model"
KIND = "model"
VERSION = 1
BUNDLE_FORMAT = 1
DESCRIPTION_FILE, WEIGHTS_FILE = "model.json", "weights.safetensors"  # those of stages.models.bundle, which needs torch
_MAX_DESCRIPTION_BYTES = 10_000_000


def import_model(artifacts: Artifacts, folder: Path) -> tuple[Record, bool]:
    """Adopt a bundle (model.json, weights.safetensors); returns its record, and whether it is new.

    The folder is copied and left as it is. UsageError says what is wrong with it.
    """
    for name in (DESCRIPTION_FILE, WEIGHTS_FILE):
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise _refused(folder, f"{name} is {'a link' if path.is_symlink() else 'no file in it'}")
    store = artifacts.store
    name = f"attempts/{process_mark()}-{uuid.uuid4().hex[:8]}"
    copy = store.workspace(name)
    try:
        for file in (DESCRIPTION_FILE, WEIGHTS_FILE):
            shutil.copyfile(folder / file, copy / file)
        _check_bundle(folder, copy)
        files = artifacts.take_files(copy)
    except OSError as error:
        raise UsageError(f"cannot read {folder}: {error.strerror or error}", next_step="check its permissions") from error
    finally:
        store.remove_workspace(name)
    contents = {file: entry.digest for file, entry in sorted(files.items())}
    identity = {"stage": STAGE, "version": VERSION, "settings": {}, "data": None, "inputs": {}, "files": contents}
    record = Record(
        key=artifact_key(identity),
        stage=STAGE,
        kind=KIND,
        identity=identity,
        files=files,
        metrics={},
        measurements={},
        content_digest=content_digest(files, {}),
        input_digests={},
        source_digest="",
        label=folder.resolve().name,
        run="",
        attempt=1,
        finished=now_text(),
        seconds=0.0,
        provenance={"imported_from": str(folder.resolve())},
    )
    standing = artifacts.publish(record)
    return standing, standing is record


def _check_bundle(folder: Path, copy: Path) -> None:
    if (copy / DESCRIPTION_FILE).stat().st_size > _MAX_DESCRIPTION_BYTES:
        raise _refused(folder, f"{DESCRIPTION_FILE} is larger than {_MAX_DESCRIPTION_BYTES} bytes")
    try:
        description = json.loads((copy / DESCRIPTION_FILE).read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _refused(folder, f"{DESCRIPTION_FILE} is no JSON: {error}") from error
    try:
        header = read_header(copy / WEIGHTS_FILE)
    except ValueError as error:
        raise _refused(folder, str(error).replace(str(copy), str(folder))) from error
    if not isinstance(description, dict) or description.get("format") != BUNDLE_FORMAT:
        found = description.get("format") if isinstance(description, dict) else None
        raise _refused(folder, f"{DESCRIPTION_FILE} has format {found!r}; this release reads format {BUNDLE_FORMAT}")
    for name, kind in (("architecture", dict), ("transforms", list), ("tied", dict)):
        if not isinstance(description.get(name), kind):
            raise _refused(folder, f"{DESCRIPTION_FILE} has no {name}")
    _check_tied(folder, description["tied"], set(header.tensors))


def _check_tied(folder: Path, tied: dict[str, Any], tensors: set[str]) -> None:
    missing = sorted(str(name) for name in tied.values() if name not in tensors)
    if missing:
        raise _refused(folder, f"{DESCRIPTION_FILE} refers to tensors that {WEIGHTS_FILE} has not: {', '.join(missing[:5])}")


def _refused(folder: Path, what: str) -> UsageError:
    return UsageError(
        f"{folder} is no model that can be imported: {what}",
        next_step="save it with stages.models.bundle.save_bundle (docs/library.md)",
    )


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number in JSON")

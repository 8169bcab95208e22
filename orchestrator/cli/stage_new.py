"""`stages new`: a package with one stage that works, passes `stages check`, and waits to be changed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click

from orchestrator.cli.files import write_file
from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell
from orchestrator.errors import UsageError
from stages import catalog

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_FILES = {
    "pyproject.toml": "pyproject.toml.txt",
    "{package}/__init__.py": "init.py.txt",
    "{package}/settings.py": "settings.py.txt",
    "{package}/{method}.py": "method.py.txt",
    "tests/test_{method}.py": "test_method.py.txt",
    "workflow.yaml": "workflow.yaml.txt",
}


@command("new", example="orchestrator stages new rounding.to_grid")
@click.argument("name", metavar="KIND.METHOD")
@click.option("--out", "folder", metavar="FOLDER", help="Where to write it (KIND); must be new or empty.")
@pass_shell
def new_stage(shell: Shell, name: str, folder: str | None) -> int:
    """Write a package with one stage to start from: settings, method, test.

    The stage works as it stands (it rounds the weights of a model), and passes
    stages check. KIND is a new one: those shipped are not added to from outside.
    """
    kind, _, method = name.partition(".")
    if not _NAME.fullmatch(kind) or not _NAME.fullmatch(method):
        raise UsageError(
            f'"{name}" is no name for a stage; expected KIND.METHOD in small letters, digits and _',
            next_step="orchestrator stages new rounding.to_grid",
        )
    if catalog.kind_stages(kind):
        raise UsageError(
            f'the kind "{kind}" is there already: {", ".join(catalog.kind_stages(kind))}',
            next_step=f"orchestrator stages new my_{name}",
        )
    place = Path(folder or kind)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UsageError(f"{place} is there already and not empty", next_step=f"--out {place}-2")
    written = []
    for path, text in stage_files(kind, method).items():
        file = place / path
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(str(file), text.encode())
        written.append(path)
    if shell.as_json:
        shell.document({"folder": str(place), "stage": name, "files": written})
        return 0
    shell.say(f"{name} written to {place}: {', '.join(written)}", "next:")
    shell.say(
        f"   cd {shlex.quote(str(place))}",
        f"   orchestrator stages check {package_of(kind)}.settings",
        "   pip install -e .                  (then workflows, and every machine of a cluster, can use it)",
        "   orchestrator submit workflow.yaml",
    )
    return 0


def package_of(kind: str) -> str:
    """The package that holds the stages of a kind; `stages` itself is ours."""
    return f"{kind}_stages"


def stage_files(kind: str, method: str) -> dict[str, str]:
    """The files of the package by their paths in it."""
    from importlib.resources import files

    words = {"{kind}": kind, "{method}": method, "{package}": package_of(kind)}
    words["{Settings}"] = "".join(word.capitalize() for word in method.split("_")) + "Settings"

    def filled(text: str) -> str:
        for word, value in words.items():
            text = text.replace(word, value)
        return text

    folder = files("orchestrator") / "templates" / "stage"
    return {filled(path): filled((folder / source).read_text(encoding="utf-8")) for path, source in _FILES.items()}

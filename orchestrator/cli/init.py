"""`init`: a commented workflow to start from."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import click

from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell

TEMPLATES = {
    "vit_compress": "a vision transformer: sparsity, quantization and tokens searched together",
    "cnn_2_4": "a convolutional network with 2:4 sparsity, learned and by magnitude",
    "ptq_only": "int8 after training: static and dynamic, beside the float file",
}


def template_text(template: str, *, file: str) -> str:
    """The workflow that a template makes, as it would be called in `file`."""
    from importlib.resources import files

    text = (files("orchestrator") / "templates" / f"{template}.yaml").read_text(encoding="utf-8")
    name = re.sub(r"[^A-Za-z0-9_-]", "_", Path(file).stem)[:64]
    name = name if name[:1].isalpha() or name.startswith("_") else f"_{name}"[:64]
    return text.replace("{file}", shlex.quote(file)).replace("{name}", name)


@command("init", example="orchestrator init vit_compress")
@click.argument("template", type=click.Choice(list(TEMPLATES)), required=False, default="vit_compress")
@click.option("--out", metavar="FILE", help='Where to write it (TEMPLATE.yaml; "-": stdout).')
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
@pass_shell
def init(shell: Shell, template: str, out: str | None, force: bool) -> int:
    """Write a commented workflow to start from.

    TEMPLATE is vit_compress (default): sparsity, bits and tokens of a vision
    transformer, searched together; cnn_2_4: 2:4 sparsity of a convolutional
    network, learned and by magnitude; or ptq_only: int8 after training.
    """
    from orchestrator.cli.files import write_out
    from orchestrator.errors import UsageError

    file = out or f"{template}.yaml"
    if file != "-" and os.path.lexists(file) and not force:
        raise UsageError(
            f"{file} is there already, and nothing is overwritten",
            next_step=f"orchestrator init {template} --out OTHER.yaml, or with --force",
        )
    text = template_text(template, file=file if file != "-" else f"{template}.yaml")
    if shell.as_json:
        if file != "-":
            write_out(shell, file, text, what=template)
        shell.document({"template": template, "file": file if file != "-" else None, "text": text})
        return 0
    write_out(shell, file, text, what=f"{template}: {TEMPLATES[template]};")
    if file != "-":
        shell.say(f"next: orchestrator plan {shlex.quote(file)}")
    return 0

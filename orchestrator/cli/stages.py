"""`stages`: the catalogue, without importing any method; `check` and `new`, of methods of one's own, stand beside it."""

from __future__ import annotations

import difflib

import click

from orchestrator.cli.completing import complete_stages
from orchestrator.cli.group import CONTEXT, LazyGroup, Verb, command, pass_shell
from orchestrator.cli.shell import Shell
from orchestrator.errors import UsageError
from stages import catalog

stages = LazyGroup(
    "stages",
    help="List the kinds of work there are; show one; write and check one of your own.",
    context_settings=CONTEXT,
    verbs={
        "ls": Verb("orchestrator.cli.stages:list_stages", "List all stages."),
        "show": Verb("orchestrator.cli.stages:show_stage", "Show a stage: inputs, parameters, metrics, example."),
        "check": Verb("orchestrator.cli.stage_check:check_stages", "Examine stages: does each hold what is asked of all?"),
        "new": Verb("orchestrator.cli.stage_new:new_stage", "Write a stage of your own to start from."),
    },
    example="orchestrator stages show sparsify.lbc",
)


@command("ls", example="orchestrator stages ls")
@click.argument("kind", required=False)
@pass_shell
def list_stages(shell: Shell, kind: str | None) -> int:
    """List all stages, or those of one KIND."""
    from orchestrator.report.stage_text import stages_lines

    specs = [spec for name, spec in catalog.all_stages().items() if kind is None or name.partition(".")[0] == kind]
    if kind is not None and not specs:
        kinds = list(dict.fromkeys(name.partition(".")[0] for name in catalog.all_stages()))
        raise UsageError(
            f'no kind of stage is called "{kind}"; there are {", ".join(kinds)}', next_step="orchestrator stages ls"
        )
    if shell.as_json:
        names = ("name", "version", "summary", "output", "experimental")
        documents = [
            {
                **{name: getattr(spec, name) for name in names},
                "inputs": {name: vars(port) for name, port in spec.inputs.items()},
            }
            for spec in specs
        ]
        shell.document({"stages": documents})
    else:
        shell.data(stages_lines(specs, style=shell.style, width=shell.width))
    return 0


@command("show", example="orchestrator stages show sparsify.lbc")
@click.argument("name", shell_complete=complete_stages)
@pass_shell
def show_stage(shell: Shell, name: str) -> int:
    """Show a stage: inputs, output, metrics, every parameter, an example."""
    from orchestrator.report.stage_text import stage_document, stage_lines

    spec = catalog.find_stage(name)
    if spec is None:
        raise _unknown(name)
    if shell.as_json:
        shell.document(stage_document(spec))
    else:
        shell.data(stage_lines(spec, style=shell.style, width=min(shell.width or 80, 100)))
    return 0


def _unknown(name: str) -> UsageError:
    names = list(catalog.all_stages())
    same_kind = [other for other in names if other.partition(".")[0] == name or other.partition(".")[2] == name]
    near = same_kind or difflib.get_close_matches(name, names, n=3)
    hint = f"; did you mean {' or '.join(near[:4])}?" if near else ""
    target = f"orchestrator stages show {near[0]}" if near else "orchestrator stages ls"
    return UsageError(f'no stage is called "{name}"{hint}', next_step=target)

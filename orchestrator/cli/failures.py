"""From an exception to words and an exit code: what happened, and what to do next. A trace only where it was asked for."""

from __future__ import annotations

import sys
from typing import Any

import click

from orchestrator.cli.shell import Shell
from orchestrator.errors import OrchestratorError, WorkflowError

EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def run_guarded(shell: Shell, arguments: list[str]) -> int:
    """Run the command that `arguments` name; whatever it raises becomes words on stderr and an exit code."""
    try:
        from orchestrator.cli.root import orchestrator

        code = orchestrator.main(arguments, prog_name="orchestrator", standalone_mode=False, obj=shell)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        return _report_usage(shell, error)
    except (KeyboardInterrupt, click.Abort):
        shell.insist("", "interrupted; nothing was left half done. next: the same command again")
        return EXIT_INTERRUPTED
    except OrchestratorError as error:
        return _report(shell, error, arguments)
    except Exception as error:  # noqa: BLE001 - the last place before the user: a bug of ours becomes a sentence and a file
        return _report_internal(shell, error)


def problem_documents(error: WorkflowError) -> list[dict[str, Any]]:
    """The problems of a workflow file as data."""
    return [vars(problem) for problem in error.problems]


def report_workflow_error(shell: Shell, error: WorkflowError) -> None:
    """All problems of a file, each with its place and its remedy."""
    from orchestrator.report.problems import format_problems

    shell.insist(*format_problems(error.problems).splitlines())


def _report(shell: Shell, error: OrchestratorError, arguments: list[str]) -> int:
    if shell.verbose:
        shell.insist(_trace())
    next_step = error.next_step or _help_command(arguments)
    details: dict[str, Any] = {"message": error.message, "next": next_step, "exit_code": error.exit_code}
    if isinstance(error, WorkflowError):
        report_workflow_error(shell, error)
        details["problems"] = problem_documents(error)
    else:
        shell.insist(f"{shell.err_style.paint('error:', 'error')} {error.message}")
        shell.insist(f"   next: {next_step}")
    _document(shell, details)
    return error.exit_code


def _report_usage(shell: Shell, error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        shell.insist(error.format_message())
        return EXIT_USAGE
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "orchestrator"
    message = error.format_message()
    shell.insist(f"{shell.err_style.paint('error:', 'error')} {message[:1].lower()}{message[1:]}", f"   next: {path} --help")
    _document(shell, {"message": message, "next": f"{path} --help", "exit_code": EXIT_USAGE})
    return EXIT_USAGE


def _report_internal(shell: Shell, error: Exception) -> int:
    import tempfile

    trace = _trace()
    with tempfile.NamedTemporaryFile("w", prefix="orchestrator-error-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write(f"command: {sys.argv}\npython: {sys.version}\n\n{trace}")
    if shell.verbose:
        shell.insist(trace)
    bundle = "orchestrator doctor --bundle report.zip"
    what = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    shell.insist(
        f"{shell.err_style.paint('error:', 'error')} internal error, our fault and not yours: {what}",
        "   finished artifacts are safe; the same command may be given again",
        f"   trace: {file.name}",
        f"   next: {bundle}    (has the trace; report it with that file)",
    )
    _document(shell, {"message": what, "trace": file.name, "next": bundle, "exit_code": EXIT_INTERNAL})
    return EXIT_INTERNAL


def _help_command(arguments: list[str]) -> str:
    from orchestrator.cli.root import orchestrator

    verb = next((word for word in arguments if word in orchestrator.verbs), "")
    return " ".join(word for word in ("orchestrator", verb, "--help") if word)


def _document(shell: Shell, details: dict[str, Any]) -> None:
    if shell.as_json:
        shell.json_line({"error": details})


def _trace() -> str:
    import traceback

    return traceback.format_exc().rstrip()

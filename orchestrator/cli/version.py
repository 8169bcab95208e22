"""`version`: ours, and the versions of what we stand on."""

from __future__ import annotations

from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell


@command("version", example="orchestrator version --json")
@pass_shell
def version(shell: Shell) -> int:
    """Show versions of orchestrator, Python, Ray, torch, and the code's commit."""
    from orchestrator.engine.provenance import command_provenance, environment_versions

    versions = dict(environment_versions())
    provenance = command_provenance()
    commit = (
        f"{provenance['commit'][:12]}{' with local changes' if provenance['dirty'] else ''}" if provenance["commit"] else ""
    )
    if shell.as_json:
        shell.document({"versions": versions, "commit": provenance["commit"], "dirty": provenance["dirty"]})
        return 0
    rows = {"orchestrator": versions.pop("orchestrator", "not installed"), **({"commit": commit} if commit else {}), **versions}
    width = max(map(len, rows))
    shell.data(f"{name:<{width}}  {value}" for name, value in rows.items())
    return 0

"""Every error that a user may meet, as one tree:

    OrchestratorError            exit code
    ├── UsageError                   2   a flag, a run id or a name that cannot be used
    │   ├── WorkflowError            2   the workflow file is wrong; carries every problem found in it
    │   └── AlreadySubmitted         2   this idempotency key was used before; carries the run that used it
    ├── PlanError                    2   the file is well formed, but cannot be planned here (resources, references)
    ├── StageFailed                  3   a node failed; chained from the original
    ├── IntegrityError               5   stored bytes differ from their digest
    ├── StoreError                   7   the store cannot be read or written
    ├── ClusterError                 7   Ray cannot be started or reached
    ├── BudgetReached                6   more would be spent than the run may; a larger budget goes on
    ├── LeaseLost                    3   another process took the work over; this one stops
    └── Interrupted              130/143 the run was asked to stop

Messages say what was found, what was expected and the next command. Only `cli` prints them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class OrchestratorError(Exception):
    """Base of all errors meant for a user. `next_step` is the command or action to try."""

    exit_code = 1

    def __init__(self, message: str, *, next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step


class UsageError(OrchestratorError):
    exit_code = 2


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing wrong with a workflow file, and where.

    `what` is one sentence of fact ('node "lbc": unknown parameter "n_of_m"'); `found`, `expected`, `suggestion` and
    `next_step` may be empty. `line` and `column` count from 1; 0 means the whole file.
    """

    file: str
    line: int
    column: int
    what: str
    found: str = ""
    expected: str = ""
    suggestion: str = ""
    next_step: str = ""
    note: str = ""

    def place(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class WorkflowError(UsageError):
    """The workflow file has problems; all of them are in `problems`, in the file's order."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(f"{len(problems)} problem{'s' if len(problems) != 1 else ''} in {problems[0].file}")
        self.problems = tuple(problems)


class AlreadySubmitted(UsageError):
    """A run with this idempotency key was begun before: `run`. `is_same` says whether it was asked for the same."""

    def __init__(self, run: str, *, is_same: bool) -> None:
        what = "" if is_same else " for something else"
        super().__init__(
            f"this idempotency key was used by run {run}{what}", next_step=f"orchestrator status {run}, or another key"
        )
        self.run = run
        self.is_same = is_same


class PlanError(OrchestratorError):
    exit_code = 2


class StageFailed(OrchestratorError):
    exit_code = 3


class LeaseLost(OrchestratorError):
    exit_code = 3


class IntegrityError(OrchestratorError):
    exit_code = 5


class BudgetReached(OrchestratorError):
    exit_code = 6


class StoreError(OrchestratorError):
    exit_code = 7


class ClusterError(OrchestratorError):
    exit_code = 7


class Interrupted(OrchestratorError):
    exit_code = 130

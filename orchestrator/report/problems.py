"""A Problem as text for people: place, fact, found, expected, suggestion, next command. Knows nothing of workflows."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.errors import Problem

_CLAUSES = ("stage ", "port ", "node ", "a node ", "a workflow ", '"')
"""How an `expected` begins that is a sentence of its own ("stage sparsify.lbc takes n_m"); others name a thing."""


def format_problem(problem: Problem) -> str:
    """One problem on two or three lines, and a note where there is one; the last line always says what to do."""
    lines = [f"error: {problem.place()}: {problem.what}"]
    expected = problem.expected
    if expected and not (expected.startswith(_CLAUSES) and (" takes " in expected or " has " in expected)):
        expected = f"expected {expected}"
    facts = "; ".join(part for part in (f"found {problem.found}" if problem.found else "", expected) if part)
    advice = "    ".join(
        part for part in (problem.suggestion, f"next: {problem.next_step}" if problem.next_step else "") if part
    )
    lines += [f"   {line}" for line in (facts, advice) if line]
    if problem.note:
        lines.append(f"note: {problem.note}")
    return "\n".join(_printable(line) for line in lines)


def format_problems(problems: Iterable[Problem]) -> str:
    """All problems of a file, in the order given."""
    return "\n".join(format_problem(problem) for problem in problems)


def _printable(text: str) -> str:
    """`text` on one line, without control characters: names come from a file that may hold anything."""
    return "".join(character if character.isprintable() else character.encode("unicode_escape").decode() for character in text)

"""What a text of a workflow file refers to: a node, a node of a sweep's best trial or of all trials of its front, or an
artifact that the store holds already.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

BEST = "best"
FRONT = "front"
OUTPUT = "output"
"""`node.output` says the same as `node`: each node has one output."""
EXISTING = "artifact:"
"""What a reference to an artifact of the store begins with; no name of a node holds a colon."""
EXISTING_PATTERN = re.compile(EXISTING + r"([a-z][a-z0-9._-]{0,63}(@[1-9][0-9]{0,8})?|[0-9a-f]{8,32})")


@dataclass(frozen=True)
class Reference:
    """`node`, or `node.which.part` where `node` is a sweep, `which` is best or front and `part` one of the sweep's nodes."""

    node: str
    which: str = ""
    part: str = ""

    def __str__(self) -> str:
        return f"{self.node}.{self.which}.{self.part}" if self.which else self.node

    @property
    def is_expanded(self) -> bool:
        """Whether it stands for several artifacts."""
        return self.which == FRONT


@dataclass(frozen=True, kw_only=True)
class ExistingArtifact:
    """An artifact of the store that the file refers to; `name` is the version of a name it was found by, if it was."""

    stage: str
    key: str
    kind: str
    name: str = ""

    def __str__(self) -> str:
        return self.name or f"artifact {self.key[:8]}"


def parse_reference(text: str) -> Reference:
    """The reference in a text that the check has found good.

    Example:
        >>> [str(parse_reference(text)) for text in ("a", "a.output", "s.best.x", "s.front.x.output")]
        ['a', 'a', 's.best.x', 's.front.x']
    """
    if existing_name(text):
        return Reference(text)
    node, *rest = text.split(".")
    return Reference(node, *rest[:2]) if len(rest) > 1 else Reference(node)


def existing_name(text: object) -> str:
    """The name, or the beginning of a key, in a reference to an artifact of the store; empty for any other reference.

    Example:
        >>> existing_name("artifact:vit-sparse@3"), existing_name("train")
        ('vit-sparse@3', '')
    """
    return text[len(EXISTING) :] if isinstance(text, str) and text.startswith(EXISTING) else ""


def split_metric(text: str) -> tuple[str, str]:
    """The reference and the name of the metric in "node.metric" or "sweep.best.node.metric".

    Example:
        >>> split_metric("score.gmacs"), split_metric("search.best.score.gmacs"), split_metric("score")
        (('score', 'gmacs'), ('search.best.score', 'gmacs'), ('score', ''))
    """
    words = text.split(".")
    length = 3 if len(words) > 3 and words[1] in {BEST, FRONT} else 1
    return ".".join(words[:length]), ".".join(words[length:])

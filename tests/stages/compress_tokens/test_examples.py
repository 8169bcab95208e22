"""The examples in the docstrings are run: they are what a user of the library copies."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    ("module", "examples"), [("stages.compress_tokens.search", 1), ("stages.ops.tokens", 1), ("stages.ops.token_budget", 1)]
)
def test_examples_run(module, examples):
    found = doctest.testmod(importlib.import_module(module))
    assert found.failed == 0
    assert found.attempted >= examples

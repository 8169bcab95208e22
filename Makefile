# make demo   installs into .venv and runs the main workflow
# make test   the whole suite, in the same environment
# make check  the gate: format, lint, types, import directions, fast tests
# make recipes  the workflows for ImageNet with their full-size networks, on tiny data (6 minutes of one core)
# make chaos  kills and faults of every kind, counted (about 20 minutes)      make bench  the engine benchmark

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
TESTS_IN_PARALLEL ?= 2

.PHONY: demo test check recipes chaos bench clean

demo: $(READY)
	$(BIN)/orchestrator submit workflows/vit_compress.yaml

test: $(READY)
	$(BIN)/python -m pytest -n $(TESTS_IN_PARALLEL) --dist loadgroup -m "not chaos and not recipes"

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n $(TESTS_IN_PARALLEL) --dist loadgroup -m "not chaos and not recipes and not slow and not ray" -q

recipes: $(READY)
	$(BIN)/python -m pytest tests/workflow/test_reference_workflows.py -n $(TESTS_IN_PARALLEL) -m recipes

chaos: $(READY)
	$(BIN)/python -m pytest tests/faults -n $(TESTS_IN_PARALLEL) --dist loadgroup --least-faults 500

bench: $(READY)
	$(BIN)/python benchmarks/engine.py

# torch comes first and alone: what follows then finds it installed and asks the registry for no other build of it.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("orchestrator needs Python 3.11 to 3.13; this is %d.%d. Try: make PYTHON=python3.12" % sys.version_info[:2] if not (3, 11) <= sys.version_info[:2] < (3, 14) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[test]"
	touch $(READY)

clean:
	rm -rf $(VENV) .orchestrator .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info

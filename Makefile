# Two commands: `make reproduce` (everything, from nothing to the report) and `make test` (lint, types, tests).
PYTHON ?= python3
BIN := .venv/bin
STUDY ?= experiments/laptop.yaml

.PHONY: reproduce test lint types slurm-packages figures clean setup
setup: .venv/.ready

# torch comes first, so that nothing that depends on it brings another build.
.venv/.ready: constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[train,dev]'
	touch $@

reproduce: setup
	$(BIN)/hpz run $(STUDY)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

test: lint types
	$(BIN)/pytest

# From the committed reference results; the same input gives the same svg, byte for byte.
figures: setup
	$(BIN)/python -m analysis figures $(wildcard results/reference/*)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache

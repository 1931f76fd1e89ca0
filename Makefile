# Three commands: `make reproduce` (everything, from nothing to the report), `make artifact` (what is claimed, held against
# what is found; ARTIFACT.md) and `make test` (lint, types, tests).
PYTHON ?= python3
BIN := .venv/bin
STUDY ?= experiments/laptop.yaml
ROUNDS ?= 20
FAULTS ?= 50
RELEASE ?= 0.13.4
# Of the tests: one more than cores, as ranks wait for each other and those on SLURM for the scheduler.
WORKERS ?= $(shell expr $$(nproc) + 1)

# What the SLURM and browser tests need; installed where that is allowed, else those tests are skipped and say so.
PACKAGES := slurmctld slurmd slurm-client munge iproute2 chromium openssh-server rsync
SUDO := $(shell [ "$$(id -u)" = 0 ] || { command -v sudo >/dev/null && sudo -n true 2>/dev/null && echo sudo -n; })
MAY_INSTALL := $(shell command -v apt-get >/dev/null && { [ "$$(id -u)" = 0 ] || [ -n "$(SUDO)" ]; } && echo yes)

# Ranks are processes by the hundred; each would compile what it imports anew.
unexport PYTHONDONTWRITEBYTECODE

# Where `make wheelhouse` was run before, nothing is fetched.
ifneq ($(wildcard wheelhouse/*.whl),)
export PIP_NO_INDEX := 1
export PIP_FIND_LINKS := $(CURDIR)/wheelhouse
endif

.PHONY: reproduce artifact kick wheelhouse test soak chaos matrix releases scripts lint types packages figures docs historical clean setup
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

# What ARTIFACT.md claims: claim, expected, found, ok or different; `kick` takes five minutes of it.
artifact kick: setup
	$(BIN)/python -m analysis $@ results/$@

# All that a machine without network needs, built where it must be: copy the checkout with wheelhouse/ there.
wheelhouse: export PIP_NO_INDEX :=
wheelhouse: export PIP_FIND_LINKS :=
wheelhouse: setup
	rm -rf .venv-wheels
	$(PYTHON) -m venv .venv-wheels
	.venv-wheels/bin/pip wheel -q -c constraints.txt -w wheelhouse torch 'setuptools>=77' wheel
	.venv-wheels/bin/pip wheel -q -c constraints.txt -w wheelhouse --find-links wheelhouse '.[train,dev]'
	rm -rf .venv-wheels wheelhouse/hpz_lab-*.whl
	$(BIN)/python -m harness.race.corpus_releases wheelhouse

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: setup
	$(BIN)/mypy

packages:
ifeq ($(MAY_INSTALL),yes)
	@dpkg -s $(PACKAGES) >/dev/null 2>&1 || { \
	  $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive \
	  apt-get install -y -qq --no-install-recommends $(PACKAGES) >/dev/null; } \
	  || echo "some of $(PACKAGES) could not be installed; the tests that need them are skipped"
endif

test: lint types packages
	$(BIN)/pytest -q -n $(WORKERS) --no-loadscope-reorder --durations=20

# Which tests do not pass every time? RINGS=tests/slurm or any other tests; by default all but the unit ring.
soak: setup packages
	$(BIN)/python -m tests.soak --rounds $(ROUNDS) $(RINGS)

# Ranks, srun, drivers, daemons, nodes and the disk of a one-machine SLURM are broken at random moments: what was lost?
chaos: setup packages
	$(BIN)/python -m tests.chaos --faults $(FAULTS)

# Every release that is pinned, not only the sample of `make test`: hashes, overlays, faults, copies.
releases: setup
	$(BIN)/hpz patch verify --all-releases
	$(BIN)/pytest -q -n $(WORKERS) -m every_release tests/unit

# The invariants on each supported torch, and each installed DeepSpeed of its time: hours on a slow network, as every torch
# is fetched with its CUDA libraries. Rewrites tests/matrix.md.
matrix: setup
	$(BIN)/pip install -q -c constraints.txt -e '.[matrix]'
	$(BIN)/nox $(if $(TORCH),--session "matrix(torch='$(TORCH)')")

# Public training scripts under `hpz race`, fetched from their repositories and run as they are; rewrites the table of
# docs/howto/scripts.md. SCRIPTS_PYTHON names an environment with torchvision, for the scripts that need it.
scripts: setup
	$(BIN)/python -m tests.scripts $(NAMES)

# The paper's own window, or any other release, on today's torch: make historical RELEASE=0.14.2
historical: setup
	$(BIN)/hpz run experiments/historical.yaml --release $(RELEASE)

# From the committed reference results; the same input gives the same svg, byte for byte.
figures: setup
	$(BIN)/python -m analysis figures $(patsubst %/study.yaml,%,$(wildcard results/reference/*/study.yaml))

# The generated pages of docs/reference anew, and all of docs as a site in site/.
docs: setup
	$(BIN)/python -m harness.manual
	$(BIN)/mkdocs build --strict --quiet
	@echo site/index.html

clean:
	rm -rf .venv site .mypy_cache .ruff_cache .pytest_cache

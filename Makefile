# lastax: train, score and prune state-space models. `make` lists what there is.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LASTAX := $(BIN)/lastax
INSTALLED := $(VENV)/.installed

TASK ?= speech
RUN ?=
RATIO ?= 0.3
METHOD ?= last
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup train evaluate score prune sweep report bench bench-check test test-all lint types format clean

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(INSTALLED) ## the environment in .venv, made by itself on first use

$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "lastax needs Python 3.11 or newer: make PYTHON=python3.x"; rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade -c constraints.txt pip
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt --editable . --group dev
	@touch $@

# Huge pages for what a training step maps anew each time; other C libraries ignore it.
train prune: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

train: $(INSTALLED) ## train a network: TASK=speech ARGS="--epochs 20 --seed 0"
	$(LASTAX) train --task $(TASK) $(ARGS)

evaluate: $(INSTALLED) ## accuracy on the test split: RUN=runs/... (default: the newest)
	$(LASTAX) evaluate $(RUN) $(ARGS)

score: $(INSTALLED) ## what each layer's states are worth: RUN= METHOD=last
	$(LASTAX) score $(RUN) --method $(METHOD) $(ARGS)

prune: $(INSTALLED) ## train if there is no run yet, then remove states: RUN= METHOD=last RATIO=0.3
	@test -n "$(RUN)" || $(LASTAX) train --task $(TASK) --if-missing
	$(LASTAX) prune $(RUN) --method $(METHOD) --beside calibrated --ratio $(RATIO) $(ARGS)

sweep: $(INSTALLED) ## every method at every ratio: RUN= (one or several) ARGS="--ratios 0.3,0.5"
	$(LASTAX) sweep $(RUN) $(ARGS)

report: $(INSTALLED) ## one page about a run or a sweep: RUN= (default: the newest run)
	$(LASTAX) report $(RUN) $(ARGS)

bench: $(INSTALLED) ## speed beside the public way of computing: ARGS="--shape short"
	$(LASTAX) bench train-step $(ARGS)
	$(LASTAX) bench prune $(ARGS)

bench-check: $(INSTALLED) ## fail if a ratio is over 25 % worse than in docs/performance.json
	$(LASTAX) bench train-step --check docs/performance.json $(ARGS)
	$(LASTAX) bench prune --check docs/performance.json $(ARGS)

test: $(INSTALLED) ## the fast tests
	$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

test-all: $(INSTALLED) ## all tests
	$(BIN)/python -m pytest -n auto --dist loadfile -m "slow or not slow" $(ARGS)

lint: $(INSTALLED) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED) ## let ruff rewrite
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(INSTALLED) ## mypy on an installed copy: it can't follow the mapping of folders to packages
	@rm -rf build/types build/lib && mkdir -p build/types
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/types .
	cd build/types && MYPYPATH=. $(abspath $(BIN))/mypy --config-file ../../pyproject.toml

clean: ## remove what was built, but not .venv and runs
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info src/*.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

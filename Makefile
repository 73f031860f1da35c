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

JOBS ?= $(shell nproc 2>/dev/null || echo 2)

.DEFAULT_GOAL := help
.PHONY: help setup train evaluate score prune sweep report study study-refit bench bench-check test test-all lint types format clean

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

# What the three parts of a study share. Called again it goes on where it was stopped.
STUDY := --seeds 0,1,2 --jobs $(JOBS)

study: $(INSTALLED) ## all methods on four kinds of layers and three tasks, two hours: docs/study.md
	$(LASTAX) sweep --task speech --layer s5,s5-one-way,s4d,lru $(STUDY) \
		--ratios 0.1,0.3,0.5,0.6,0.7,0.8,0.9 --out runs/study/speech $(ARGS)
	$(LASTAX) sweep --task smnist --layer s5,s4d $(STUDY) \
		--ratios 0.1,0.3,0.5,0.7,0.9 --limit 1000 --out runs/study/smnist $(ARGS)
	$(LASTAX) sweep --task text --layer s5 $(STUDY) \
		--ratios 0.1,0.3,0.5,0.7,0.9 --limit 1000 --out runs/study/text $(ARGS)
	$(LASTAX) report runs/study/speech runs/study/smnist runs/study/text --out runs/study/report.html

REFIT := runs/study-refit

study-refit: $(INSTALLED) ## refits after training, polished, on S4D, on other data, and their cost, an hour and a half: docs/refit.md
	$(LASTAX) sweep --task speech --layer s5 $(STUDY) --methods last,calibrated --ratios 0.8,0.9 \
		--finetune 3 --distill --out $(REFIT)/training $(ARGS)
	$(LASTAX) sweep --task speech --layer s4d $(STUDY) --ratios 0.9,0.95 --out $(REFIT)/s4d \
		--methods last,aire,uniform-magnitude,measured-energy,measured-balanced,calibrated $(ARGS)
	$(LASTAX) sweep --task speech --layer s5 $(STUDY) --ratios 0.6,0.7,0.8,0.9 --calibration 256 \
		--methods last,measured-balanced,calibrated --polish last,measured-balanced,calibrated \
		--out $(REFIT)/polished $(ARGS)
	$(LASTAX) sweep --task speech --layer s4d $(STUDY) --ratios 0.9,0.95 --calibration 256 \
		--methods calibrated --polish calibrated --out $(REFIT)/polished-s4d $(ARGS)
	for model in s5-0.8 s5-0.9 s4d-0.95; do layer=$${model%-*}; ratio=$${model#*-}; \
		for seed in 0 1 2; do for tuning in 3-0.1 30-0.3; do \
		out=$(REFIT)/distilled-$$model-$$tuning-seed$$seed; \
		test -d $$out || $(LASTAX) prune runs/speech/$$layer-seed$$seed --method calibrated \
			--ratio $$ratio --calibration 256 --polish 100 --finetune $${tuning%-*} \
			--finetune-rate $${tuning#*-} --distill --out $$out || exit 1; done; done; done
	$(LASTAX) sweep --task speech --layer s5 $(STUDY) --methods last --ratios 0.8,0.9 \
		--finetune 30 --finetune-rate 0.3 --distill --out $(REFIT)/training-long $(ARGS)
	for seed in 0 1 2; do for ratio in 0.5 0.6; do \
		out=$(REFIT)/full-D$$ratio-seed$$seed; \
		test -d $$out || $(LASTAX) prune runs/speech/s5-seed$$seed --method calibrated --ratio $$ratio \
			--full-D --out $$out || exit 1; done; done
	for seed in 0 1 2; do for states in 6 3; do \
		$(LASTAX) train --task speech --states $$states --seed $$seed --if-missing \
			--out $(REFIT)/small$$states-seed$$seed || exit 1; done; done
	$(BIN)/python examples/calibration_drift.py runs/speech/s5-seed0 runs/speech/s5-seed1 \
		runs/speech/s5-seed2 | tee $(REFIT)/drift.txt
	$(LASTAX) bench refit
	$(LASTAX) report $(REFIT)/training $(REFIT)/s4d $(REFIT)/polished $(REFIT)/polished-s4d \
		--out $(REFIT)/report.html

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

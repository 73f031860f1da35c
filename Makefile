# lastax: train, score and prune state-space models. `make` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LASTAX := $(BIN)/lastax
INSTALLED := $(VENV)/.installed
INSTALLED_DOCS := $(VENV)/.installed-docs
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

TASK ?= speech
RUN ?=
RATIO ?= 0.3
METHOD ?= last
ARGS ?=

JOBS ?= $(shell nproc 2>/dev/null || echo 2)

.DEFAULT_GOAL := help
.PHONY: help setup train evaluate score prune sweep report study study-refit study-training study-import study-device bench bench-check bench-gpu \
	check lint types test test-all test-versions test-lowest test-newest test-gpu docs docs-serve format package clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 15

setup: $(INSTALLED) ## create the environment in .venv; every other target does this when needed

$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "lastax needs Python 3.11 or newer: make PYTHON=python3.x"; rm -rf $(VENV); exit 1; }
	$(PIP_INSTALL) --upgrade -c constraints.txt pip
	PYTHONWARNINGS=ignore $(PIP_INSTALL) -c constraints.txt --editable '.[cli]' --group dev
	@touch $@

$(INSTALLED_DOCS): $(INSTALLED)
	$(PIP_INSTALL) -c constraints.txt --group docs
	@touch $@

# With huge pages a training step spends less time on fresh memory. Only glibc reads this variable.
train prune: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

train: $(INSTALLED) ## train a network: TASK=speech ARGS="--epochs 20 --seed 0"
	$(LASTAX) train --task $(TASK) $(ARGS)

evaluate: $(INSTALLED) ## accuracy on the test split: RUN=runs/... (default: the newest run)
	$(LASTAX) evaluate $(RUN) $(ARGS)

score: $(INSTALLED) ## score the states of each layer: RUN= METHOD=last
	$(LASTAX) score $(RUN) --method $(METHOD) $(ARGS)

prune: $(INSTALLED) ## train if there is no run yet, then remove states: RUN= METHOD=last RATIO=0.3
	@test -n "$(RUN)" || $(LASTAX) train --task $(TASK) --if-missing
	$(LASTAX) prune $(RUN) --method $(METHOD) --compare-with calibrated --ratio $(RATIO) \
		--overwrite $(ARGS)

sweep: $(INSTALLED) ## every method at every ratio: RUN= (one or several) ARGS="--ratios 0.3,0.5"
	$(LASTAX) sweep $(RUN) $(ARGS)

report: $(INSTALLED) ## write an HTML page about a run or a sweep: RUN= (default: the newest run)
	$(LASTAX) report $(RUN) $(ARGS)

# The parts of the studies share these options. A sweep that was interrupted resumes.
STUDY := --seeds 0,1,2 --jobs $(JOBS)
# Train those of the runs in $(1) that are not finished, for the task speech and with the options in $(2).
define TRAIN_MISSING
	for run in $(1); do resume=$$(test ! -d $$run || echo --resume); \
		test -f $$run/results.json || $(LASTAX) train --task speech $(2) \
			--seed $${run##*seed} --out $$run $$resume || exit 1; done
endef

study: $(INSTALLED) ## all methods, four kinds of layers, three tasks; two hours: docs/study.md
	$(LASTAX) sweep --task speech --layer s5,s5-unidirectional,s4d,lru $(STUDY) \
		--ratios 0.1,0.3,0.5,0.6,0.7,0.8,0.9 --out runs/study/speech $(ARGS)
	$(LASTAX) sweep --task smnist --layer s5,s4d $(STUDY) \
		--ratios 0.1,0.3,0.5,0.7,0.9 --limit 1000 --out runs/study/smnist $(ARGS)
	$(LASTAX) sweep --task text --layer s5 $(STUDY) \
		--ratios 0.1,0.3,0.5,0.7,0.9 --limit 1000 --out runs/study/text $(ARGS)
	$(LASTAX) report runs/study/speech runs/study/smnist runs/study/text --out runs/study/report.html

S5_RUNS := $(foreach seed,0 1 2,runs/speech/s5-seed$(seed))
S4D_RUNS := $(foreach seed,0 1 2,runs/speech/s4d-seed$(seed))

study-refit: $(INSTALLED) ## refitting, reconstruction and distillation; an hour and a half: docs/refit.md
	$(call TRAIN_MISSING,$(S5_RUNS),--layer s5)
	$(call TRAIN_MISSING,$(S4D_RUNS),--layer s4d)
	$(BIN)/python examples/study_refit.py $(S5_RUNS) $(S4D_RUNS) --jobs $(JOBS) $(ARGS)
	$(BIN)/python examples/calibration_drift.py $(S5_RUNS)
	$(LASTAX) bench refit

study-training: $(INSTALLED) ## penalties, reduction in training, small networks; an hour: docs/training-small.md
	$(BIN)/python examples/study_training.py $(ARGS)

# Trained networks of other people, for example CHECKPOINTS="a.pth b.pth". Resumes if interrupted.
CHECKPOINTS ?=

study-import: $(INSTALLED) ## prune other people's networks: CHECKPOINTS="a.pth b.pth" ARGS="--data-dir ..."
	$(BIN)/python examples/study_import.py $(CHECKPOINTS) $(ARGS)

# C code of unidirectional networks, and all runtimes. Trains the networks; resumes if interrupted.
DEVICE_RUNS := $(foreach seed,0 1 2,runs/speech/s5-unidirectional-seed$(seed))

study-device: $(INSTALLED) ## networks as C code, and checks of all runtimes; half an hour: docs/device.md
	$(call TRAIN_MISSING,$(DEVICE_RUNS),--no-bidirectional)
	$(BIN)/python examples/study_device.py $(DEVICE_RUNS) $(ARGS)

# The ratios depend on the number of cores, so they are measured on one where the system can do that.
ONE_CORE := $(if $(shell command -v taskset),taskset -c 0)

bench: $(INSTALLED) ## speed compared with a reference implementation: ARGS="--shape short"
	$(ONE_CORE) $(LASTAX) bench train-step $(ARGS)
	$(ONE_CORE) $(LASTAX) bench prune $(ARGS)

bench-check: $(INSTALLED) ## fail if a ratio is over 25 % worse than in docs/performance.json
	$(ONE_CORE) $(LASTAX) bench train-step --check docs/performance.json $(ARGS)
	$(ONE_CORE) $(LASTAX) bench prune --check docs/performance.json $(ARGS)

# The tests compare with float64, and both JAX and networks round products to TF32 on a GPU by default.
# The override stops networks from doing so, but only outside of Triton.
GPU_TESTS := tests/golden tests/ssm tests/nn/test_layers.py tests/nn/test_networks.py \
	tests/calibration/test_refit.py tests/training/test_training.py
HAS_GPU := $(BIN)/python -c 'import jax, sys; sys.exit(jax.default_backend() != "gpu")'

test-gpu: export JAX_DEFAULT_MATMUL_PRECISION := highest
test-gpu: export XLA_PYTHON_CLIENT_PREALLOCATE := false
test-gpu: export NVIDIA_TF32_OVERRIDE := 0
test-gpu: export XLA_FLAGS := --xla_gpu_enable_triton_gemm=false
test-gpu: $(INSTALLED) ## golden, recurrence, layer, refit and training tests on a GPU, if there is one
	@if $(HAS_GPU); then $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(GPU_TESTS) $(ARGS); \
		else echo "test-gpu: JAX found no GPU, so no test was run"; fi

bench-gpu: $(INSTALLED) ## speed on a GPU, if there is one: build/bench-gpu.json and a table
	@mkdir -p build
	$(LASTAX) bench gpu --out build/bench-gpu.json $(ARGS)

check: lint types test docs ## everything that CI runs

lint: $(INSTALLED) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED) ## let ruff fix and format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: package ## mypy
	cd build/package && MYPYPATH=. $(abspath $(BIN))/mypy --config-file ../../pyproject.toml

test: $(INSTALLED) ## the fast tests
	$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

test-all: $(INSTALLED) ## all tests
	$(BIN)/python -m pytest -n auto --dist loadfile -m "slow or not slow" $(ARGS)

# Each has an environment of its own in build/. The lowest versions are the bounds in pyproject.toml.
test-versions: test-lowest test-newest ## the fast tests with the lowest and the newest versions

test-lowest:
	@mkdir -p build
	grep -oE '[a-z-]+>=[0-9.]+' pyproject.toml | sed 's/>=/==/' > build/lowest.txt
	$(PYTHON) -m venv build/lowest
	build/lowest/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	build/lowest/bin/python -m pip install --quiet -c build/lowest.txt --editable '.[cli]' --group test
	build/lowest/bin/python -m pytest -n auto --dist loadfile $(ARGS)

test-newest:
	$(PYTHON) -m venv build/newest
	build/newest/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	build/newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager \
		--editable '.[cli]' --group test
	build/newest/bin/python -m pytest -n auto --dist loadfile $(ARGS)

# The variable disables an advertisement of the theme's successor.
docs docs-serve: export NO_MKDOCS_2_WARNING := 1

docs: package $(INSTALLED_DOCS) ## build the documentation in build/site
	$(BIN)/mkdocs build --strict --quiet

docs-serve: package $(INSTALLED_DOCS) ## serve the documentation on http://127.0.0.1:8000
	$(BIN)/mkdocs serve

# mypy and the API reference read an installed copy: they cannot follow the mapping of folders to
# packages in pyproject.toml.
package: $(INSTALLED)
	@rm -rf build/package build/lib
	@$(PIP_INSTALL) --no-deps --target build/package .

clean: ## remove what was built, but not .venv and runs
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info src/*.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# Every target installs what it needs into .venv first; python3 (>= 3.11), pip, git, make and gcc are enough.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
PORT ?= 5000
UV_VERSION := 0.13.9

# Relative, because make splits a path at spaces.
INSTALLED := .venv/.installed
# Stages run `python`, which must be the one in .venv.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Compiled modules are cached: without them the imports of every stage take 12 CPU seconds more.
unexport PYTHONDONTWRITEBYTECODE
export NO_ALBUMENTATIONS_UPDATE := 1
export MLFLOW_DISABLE_TELEMETRY := true
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION := false

.PHONY: help install repro test test-all lint check fuzz drill bench ui baseline grid lock

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

# Scripts in .venv contain the path they were installed in: a moved or copied repository gets a new .venv.
ifneq ($(wildcard $(INSTALLED)),)
ifneq ($(shell grep -qF " $$(pwd -P)/.venv" .venv/pyvenv.cfg 2> /dev/null || echo moved),)
CLEAR := --clear
.PHONY: $(INSTALLED)
endif
endif

$(INSTALLED): requirements.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is too old: Python 3.11 or newer is needed; try make PYTHON=python3.11" >&2; exit 1; }
	@test -z '$(CLEAR)' -a -x .venv/bin/pip || "$(PYTHON)" -m venv $(CLEAR) .venv
	@test -x .venv/bin/uv || .venv/bin/pip install --quiet uv==$(UV_VERSION)
	.venv/bin/uv pip install --quiet --python .venv/bin/python -r requirements.lock -e .
	@touch $@

install: $(INSTALLED) ## set up .venv from requirements.lock; the other targets do this if needed

repro: $(INSTALLED) ## run the pipeline: data, training, evaluation; only what changed runs again
	dvc repro

# One process of tests per core. ARGS comes last, so it overrides -m and -n.
PYTEST := pytest -n auto --dist loadgroup

test: $(INSTALLED) ## run the tests that guard a change, 4 minutes; ARGS="tests/data -n 0"
	$(PYTEST) -m 'not slow' $(ARGS)

test-all: $(INSTALLED) ## run the tests that `make test` leaves out: kills, processes, long properties
	$(PYTEST) -m slow $(ARGS)

lint: $(INSTALLED) ## check format, style, types and import rules
	ruff format --check .
	ruff check .
	basedpyright
	lint-imports

check: lint test ## run lint and test

fuzz: $(INSTALLED) ## read 10,000 damaged inputs; ARGS="--seed 1 --inputs 2000"
	python -m tests.fuzz $(ARGS)

drill: $(INSTALLED) ## kill trainings 100 times, check that they resume (half an hour); ARGS="--kills 20"
	python -m tests.drill $(ARGS)

bench: $(INSTALLED) ## run all benchmarks into benchmarks/results.md; ARGS=infer: only that one
	python -m benchmarks.all $(ARGS)

ui: $(INSTALLED) ## show the runs in a browser; PORT=5000
	@python -c 'from stf.tracking.stored import open_up_to_date; open_up_to_date()'
	@echo
	@echo "  open http://127.0.0.1:$(PORT)/#/experiments/1/runs?workflowType=machine_learning"
	@echo
	mlflow ui --backend-store-uri "sqlite:///mlruns/mlflow.db" --workers 1 --port $(PORT)

# DVC writes the path of its cache into the temporary copy as ASCII, and fails on other characters.
.PHONY: ascii-cache
ascii-cache: $(INSTALLED)
	@if dvc cache dir | LC_ALL=C grep -q '[^ -~]'; then \
	  echo "error: the path of DVC's cache has a character outside ASCII, on which DVC fails; see docs/folders.md" >&2; exit 1; fi

# Only up to eval_a: V7.3 has no phase B. It runs in a temporary copy, so params.yaml, weights/ and metrics/ do not change.
# The copy has uncommitted changes of tracked files, but no files that neither git nor DVC knows. If nothing changed since
# the last time, DVC's cache has the results and nothing is trained. The MLflow run goes to the same store.
baseline: ascii-cache ## train and evaluate V7.3 (every flag off), to compare phase A with
	@dvc exp remove --quiet v73-baseline 2>/dev/null || true
	@export GIT_AUTHOR_NAME="$${GIT_AUTHOR_NAME:-$$(git config user.name || echo stf-mamba)}"; \
	export GIT_AUTHOR_EMAIL="$${GIT_AUTHOR_EMAIL:-$$(git config user.email || echo stf-mamba@localhost)}"; \
	export GIT_COMMITTER_NAME="$$GIT_AUTHOR_NAME" GIT_COMMITTER_EMAIL="$$GIT_AUTHOR_EMAIL"; \
	dvc exp run --temp --name v73-baseline eval_a \
	  -S phase_a.use_contrastive_hll=false -S phase_a.use_compression_aug=false \
	  -S phase_a.use_multiscale_drift=false -S phase_a.use_hll_normalization=false

JOBS ?= 1
grid: ascii-cache ## run the ablations, flag by flag, three seeds each (long); JOBS=2: two at a time
	@python -m pipeline.ablate --jobs $(JOBS); status=$$?; python -m pipeline.compare --grid; exit $$status

lock: $(INSTALLED) ## resolve pyproject.toml into requirements.lock
	uv pip compile pyproject.toml --extra dev --universal --no-emit-index-url --generate-hashes -o requirements.lock

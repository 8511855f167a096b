# Every target installs what it needs into .venv first; python3 (>= 3.11), pip, git, make and gcc are enough.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
PORT ?= 5000
UV_VERSION := 0.13.9

# Relative: make takes a path with a space for two.
INSTALLED := .venv/.installed
# Stages run `python`: it must be the one in .venv, whatever the caller's shell has first.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Compiled modules are kept: without them every stage spends 12 CPU seconds more on its imports.
unexport PYTHONDONTWRITEBYTECODE
export NO_ALBUMENTATIONS_UPDATE := 1
export MLFLOW_DISABLE_TELEMETRY := true
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION := false

.PHONY: help install repro test test-all lint check fuzz drill bench ui baseline grid lock

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

# The scripts in .venv begin with the folder they were installed in: a moved or copied repository gets a new .venv.
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

install: $(INSTALLED) ## set up .venv from requirements.lock (the other targets do it when needed)

repro: $(INSTALLED) ## the main job: data, training, evaluation; only what changed runs again
	dvc repro

# One process of tests per core. Afterwards -m, -n and the like in ARGS have the last word.
PYTEST := pytest -n auto --dist loadgroup

test: $(INSTALLED) ## what guards a change, in minutes; ARGS="tests/data -n 0" and the like
	$(PYTEST) -m 'not slow' $(ARGS)

test-all: $(INSTALLED) ## what make test leaves out: kills, processes, long properties, fuzz, drill
	$(PYTEST) -m slow $(ARGS)

lint: $(INSTALLED) ## format, lint, types, and who may import whom
	ruff format --check .
	ruff check .
	basedpyright
	lint-imports

check: lint test ## lint and test

fuzz: $(INSTALLED) ## 10,000 spoiled inputs through every reader; ARGS="--seed 1 --inputs 2000"
	python -m tests.fuzz $(ARGS)

drill: $(INSTALLED) ## 100 kills of trainings and dvc: what is lost (half an hour); ARGS="--kills 20"
	python -m tests.drill $(ARGS)

bench: $(INSTALLED) ## all benchmarks into benchmarks/results.md; ARGS=infer: only that one
	python -m benchmarks.all $(ARGS)

ui: $(INSTALLED) ## compare the runs in a browser; PORT=5000
	@python -c 'from stf.tracking.store import open_store; open_store()'
	@echo
	@echo "  open http://127.0.0.1:$(PORT)/#/experiments/1/runs?workflowType=machine_learning"
	@echo
	mlflow ui --backend-store-uri "sqlite:///mlruns/mlflow.db" --workers 1 --port $(PORT)

# DVC writes the path of its cache into the temporary copy as ASCII, and fails on any other.
.PHONY: ascii-cache
ascii-cache: $(INSTALLED)
	@if dvc cache dir | LC_ALL=C grep -q '[^ -~]'; then \
	  echo "error: below a folder with an accent DVC needs its cache by another path; see docs/folders.md" >&2; exit 1; fi

# Up to eval_a alone: V7.3 has no phase B. In a temporary copy, so that params.yaml, weights/ and metrics/ stay as they
# are. Uncommitted changes of tracked files take part; files unknown to both git and DVC do not. Where nothing changed
# since the last time, its results come from DVC's cache without training. The MLflow run lands in the same store.
baseline: ascii-cache ## the V7.3 baseline (every flag off), beside phase A in the same store
	@dvc exp remove --quiet v73-baseline 2>/dev/null || true
	@export GIT_AUTHOR_NAME="$${GIT_AUTHOR_NAME:-$$(git config user.name || echo stf-mamba)}"; \
	export GIT_AUTHOR_EMAIL="$${GIT_AUTHOR_EMAIL:-$$(git config user.email || echo stf-mamba@localhost)}"; \
	export GIT_COMMITTER_NAME="$$GIT_AUTHOR_NAME" GIT_COMMITTER_EMAIL="$$GIT_AUTHOR_EMAIL"; \
	dvc exp run --temp --name v73-baseline eval_a \
	  -S phase_a.use_contrastive_hll=false -S phase_a.use_compression_aug=false \
	  -S phase_a.use_multiscale_drift=false -S phase_a.use_hll_normalization=false

JOBS ?= 1
grid: ascii-cache ## the ablations, one flag at a time, three seeds each; JOBS=2: two at once
	@python -m pipeline.ablate --jobs $(JOBS); status=$$?; python -m pipeline.compare --grid; exit $$status

lock: $(INSTALLED) ## resolve pyproject.toml into requirements.lock
	uv pip compile pyproject.toml --extra dev --universal --no-emit-index-url --generate-hashes -o requirements.lock

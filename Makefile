# p2r_jax. `make` lists the targets; GNU make, bash and Python 3.11 or 3.12 are all it needs.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env demo checkpoints test test-slow test-legacy lint lock clean
export PIP_DISABLE_PIP_VERSION_CHECK := 1

VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/demo
# Versions that `make lock` holds back; the README says why ("Versions and traps").
HOLD ?= jax<0.10

# An environment that is there, else the first Python that runs and has a lock file.
version_of = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
locked = $(wildcard requirements/lock-$(call version_of,$(1)).txt)
PYTHON ?= $(firstword $(foreach p,$(BIN)/python python3 python3.12 python3.11,$(if $(call locked,$(p)),$(p))))
PYVER := $(if $(PYTHON),$(call version_of,$(PYTHON)))
FOUND := $(if $(PYVER),$(PYTHON) is $(PYVER),$(or $(PYTHON),neither) was not found)
LOCK := $(wildcard requirements/lock-$(or $(PYVER),none).txt)
STAMP := $(VENV)/installed-$(or $(PYVER),none)

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

env: $(STAMP)  ## create .venv from the lock file (the other targets do this when needed)

demo: $(STAMP)  ## the whole loop with the shipped checkpoints; OUT=runs/demo, or the next free runs/demo-N
	@out="$(OUT)"; n=2; \
	while [[ -e "$$out" ]]; do out="$(OUT)-$$n"; n=$$((n + 1)); done; \
	$(BIN)/p2r demo --out "$$out"

RUNS := runs/train
checkpoints: $(STAMP)  ## train every policy and the estimator from scratch and ship them (about an hour)
	$(BIN)/p2r train push_tblock privileged --out $(RUNS)/privileged
	$(BIN)/p2r train push_tblock noisy --init $(RUNS)/privileged --out $(RUNS)/noisy
	$(BIN)/p2r train push_tblock dr --out $(RUNS)/dr
	$(BIN)/p2r train-estimator push_tblock --policy $(RUNS)/noisy/policy --out $(RUNS)/estimator
	$(BIN)/python experiments/ship_checkpoints.py --runs $(RUNS)

test: lint  ## lint and the default tests (no GPU)
	$(BIN)/python -m pytest

test-slow: $(STAMP)  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

test-legacy: $(STAMP)  ## gemini-legacy through its real, ended package, in build/legacy
	[[ -x build/legacy/bin/python ]] || $(PYTHON) -m venv build/legacy
	build/legacy/bin/pip install --quiet google-generativeai==0.8.6
	$(BIN)/python -m pytest tests/test_prior_providers.py -k legacy

lint: $(STAMP)  ## ruff: checks and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check p2r_jax benchmarks experiments tests

lock:  ## resolve the dependencies anew into requirements/lock-VERSION.txt (PYTHON=...)
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet '.[viz,mesh,logs,vlm,deploy,hardware,onnx,dev]' '$(HOLD)'
	build/lock/bin/pip freeze --exclude p2r_jax | tr 'A-Z_' 'a-z-' | LC_ALL=C sort -t = -k 1,1 > build/lock.txt
	mv build/lock.txt requirements/lock-$(PYVER).txt && rm -rf build/lock
	git --no-pager diff --stat -- requirements

clean:  ## remove .venv and build folders (keeps runs/)
	rm -rf $(VENV) build dist *.egg-info

ifeq ($(LOCK),)
$(STAMP):
	@echo "p2r_jax needs Python 3.11 or 3.12;" \
	  "$(FOUND). Install one of them or name it:" \
	  "make PYTHON=/path/to/python3.12 ..." >&2; exit 1
else
$(STAMP): $(LOCK) pyproject.toml
	@echo "setting up $(VENV) with Python $(PYVER) from $(LOCK) (about a minute, once)"
	@[[ "$(call version_of,$(BIN)/python)" == $(PYVER) ]] || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/pip install --quiet -r $(LOCK)
	@$(BIN)/pip install --quiet --no-deps -e .
	@touch $@
endif

# p2r_jax. `make` lists the targets; GNU make, bash and Python 3.11 or 3.12 are all it needs.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env demo checkpoints test test-slow test-legacy test-torch test-package docs lint lock clean
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

test: lint  ## lint and the default tests (no GPU), whole files side by side
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

test-slow: $(STAMP)  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

test-legacy: $(STAMP)  ## gemini-legacy through its real, ended package, in build/legacy
	[[ -x build/legacy/bin/python ]] || $(PYTHON) -m venv build/legacy
	build/legacy/bin/pip install --quiet google-generativeai==0.8.6
	$(BIN)/python -m pytest tests/test_prior_providers.py -k legacy

# torch, SAM-2 and gsplat beside the locked packages; a CPU build of torch is enough.
TORCH := torch==2.13.0 transformers==5.23.0 gsplat==1.5.3 hydra-core==1.3.8 iopath==0.1.10
test-torch: $(STAMP)  ## segmentation and projection against torch, in build/torch (GBs from PyPI)
	[[ -x build/torch/bin/python ]] || $(PYTHON) -m venv build/torch
	realpath $(VENV)/lib/python$(PYVER)/site-packages > build/torch/lib/python$(PYVER)/site-packages/base.pth
	build/torch/bin/pip install --quiet $(TORCH) 'setuptools<82' wheel
	build/torch/bin/pip install --quiet --no-deps torchvision==0.28.0
	SAM2_BUILD_CUDA=0 build/torch/bin/pip install --quiet --no-deps --no-build-isolation sam2==1.1.0
	build/torch/bin/python -m pytest -m 'slow or not slow' \
	  tests/test_segment_networks.py tests/test_splat_projection.py tests/test_splat_backends.py

test-package: $(STAMP)  ## wheel, clean environment, extras, lowest versions (asks the package index)
	$(BIN)/python -m pytest -m slow tests/test_packaging.py
	$(BIN)/python -m benchmarks.packaging resolve
	$(BIN)/python -m benchmarks.packaging lowest

docs: $(STAMP)  ## the documentation site, strict, into build/site
	$(BIN)/mkdocs build --strict

lint: $(STAMP)  ## ruff: checks and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check p2r_jax benchmarks docs experiments notebooks tests

lock:  ## resolve the dependencies anew into requirements/lock-VERSION.txt (PYTHON=...)
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet '.[viz,mesh,logs,vlm,deploy,hardware,onnx,reconstruct,pymeshlab,sweep,notebooks,docs,dev]' '$(HOLD)'
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

# What a machine without ROS needs: `make demo`, `make test`. On a robot: see README.md.
# DISTRO=kilted takes that distro, in .venv-kilted, instead of Jazzy or the one that is sourced.

PYTHON ?= python3
DISTRO ?=
VENV := .venv$(patsubst %,-%,$(filter-out jazzy,$(DISTRO)))
RUN := $(VENV)/bin/python -m
SETUP := $(PYTHON) tools/ros_from_pypi/setup_venv.py $(if $(DISTRO),--distro $(DISTRO))
OUT ?= out/demo
COUNT ?= 10000
SEED ?= 0
FRAMES ?= 20000

.PHONY: setup setup-train setup-ray demo test test-rtx fuzz soak check clean help

help:             ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/'

setup:            ## make .venv: ROS 2 from PyPI (unless a distro is sourced) and this package
	@$(SETUP)

setup-train:      ## the same with torch, onnx and OpenVINO, for training and export
	@$(SETUP) --train

setup-ray:        ## the same as setup, with Ray, for `mnv2 bag run --ray`
	@$(SETUP) --ray

demo: setup       ## replay BAG=path (or a drawn street) through the live nodes
	@$(VENV)/bin/mnv2 demo --out $(OUT) $(if $(BAG),--bag "$(BAG)") $(DEMO_ARGS)

test: setup-train ## all tests; each skip says why
	@$(RUN) pytest $(PYTEST_ARGS)

test-rtx: setup-train ## NVIDIA's own parser and builder on the models; no GPU, 150 MB more
	@$(RUN) pip install -q --disable-pip-version-check -r tools/ros_from_pypi/requirements-rtx.txt
	@$(RUN) pytest test/engines/test_rtx.py $(PYTEST_ARGS)

fuzz: setup-train ## COUNT damaged messages, files, command lines, from SEED on; half an hour
	@FUZZ_COUNT=$(COUNT) FUZZ_SEED=$(SEED) $(RUN) pytest -s --timeout 3600 \
	  test/fuzz test/cli/test_wrong_lines.py $(PYTEST_ARGS)

soak: setup       ## FRAMES through perception with faults; what it held: out/soak
	@SOAK_FRAMES=$(FRAMES) SOAK_OUT=out/soak $(RUN) pytest -s --timeout 7200 test/soak $(PYTEST_ARGS)

check: setup      ## lint, types, and whether the documents say what the code does
	@$(RUN) ruff check .
	@$(RUN) mypy
	@$(RUN) mypy launch/*.py benchmark/*.py
	@$(RUN) pytest -q test/test_documentation.py test/test_import_boundaries.py

clean:            ## remove what the targets above made
	rm -rf .venv .venv-* out build install log .mypy_cache .ruff_cache .pytest_cache
	find . -name '*.egg-info' -o -name __pycache__ -prune | xargs rm -rf

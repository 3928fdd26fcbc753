# `make demo` and `make test` need Python 3.11 or newer and nothing else; both begin with `make install`.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# TORCH=2.8.0 names another PyTorch, which gets an environment of its own; what is pinned for the usual one need not fit it
VENV := $(if $(TORCH),.venvs/torch-$(TORCH),.venv)
EXTRAS := lab,dev,docs,onnx,tensorboard,wandb
BIN := $(VENV)/bin
PINS := $(if $(TORCH),/^(torch|sympy|networkx|fsspec)==/d; $$a torch==$(TORCH))
# as many tests side by side as there are CPUs, each with a thread of its own
TESTS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal
# threads that wait sleep instead of spinning, which on a shared machine takes the others' CPUs
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help install demo test test-all lint docs dist

help:
	@echo "make install    $(VENV) with the project, its laboratory and the command earlycrop"
	@echo "make demo       EarlyCroP-S against dense on handwritten digits, about two minutes"
	@echo "make test       what should pass before a commit; with TORCH=2.8.0, on that PyTorch"
	@echo "make test-all   that and what takes longer; the summary is kept in results/tests"
	@echo "make lint       format, style, types, import contracts, words"
	@echo "make docs       the documentation as a site, in site/; a warning is an error"
	@echo "make dist       wheel and source distribution, in dist/; the wheel is installed and tried in a fresh environment"

install: $(VENV)/installed

# PYTHON=... names another interpreter; else the first of these that is 3.11 or newer
$(VENV)/installed: pyproject.toml constraints.txt
	@python=$$(for each in $(PYTHON) python3 python3.13 python3.12 python3.11 python; do \
		if "$$each" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo "$$each"; break; fi; done); \
	if [ -z "$$python" ]; then echo "No Python 3.11 or newer was found; name one with make PYTHON=..." >&2; exit 1; fi; \
	[ -x $(BIN)/python ] || "$$python" -m venv $(VENV)
	sed -E '$(PINS)' constraints.txt > $(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]' \
		--constraint $(VENV)/constraints.txt
	touch $@

demo: install
	$(BIN)/earlycrop demo

test: install
	$(TESTS) -m "not slow"

test-all: install
	mkdir -p results/tests
	{ $(BIN)/python -m earlycrop_lab.measure.hardware; $(TESTS) -q --no-header -rsfE --durations=10; } 2>&1 \
		| tee results/tests/summary.txt

lint: install
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python .ci/words.py

# it reads only what is here: nothing is fetched
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# what a user gets: built from this folder, checked, installed with nothing else beside it
dist: install
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/twine check --strict dist/*
	$(BIN)/python .ci/wheel.py dist --constraint $(VENV)/constraints.txt

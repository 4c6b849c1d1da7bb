# Each target sets up what it needs: nothing but Python 3.11 and make is expected.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo run test test-all check format bench clean

help:
	@echo "make demo    set up, then train, evaluate and sample the quickstart profile"
	@echo "make run     set up, then open the app"
	@echo "make test    set up, then run the tests"
	@echo "make test-all  the same, with every layout of four ranks"
	@echo "make check   lint, types, import rules"
	@echo "make bench   measure speed; results go to tests/benchmarks/results/"
	@echo "make format  rewrite the code in the house style"
	@echo "make clean   remove what the other targets made"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Traindeck needs Python 3.11 or newer; run: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml constraints.txt | $(BIN)/python
	@echo "setting up $(VENV) (once, a few minutes)"
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) --editable '.[dev]'
	@touch $@

demo: $(VENV)/.runtime
	$(BIN)/traindeck demo

run: $(VENV)/.runtime
	$(BIN)/traindeck

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(ARGS)

test-all: $(VENV)/.dev
	$(BIN)/python -m pytest --every-layout $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/test_import_rules.py

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache

# Every target makes its own environment first. Settings, all optional:
#   PYTHON=python3.12   interpreter that creates the environment (3.11 or newer)
#   VENV=path           environment to create or use (default .venv)
#   SCALE=small         pass through every stage of quickstart or fashion in minutes
#   TESTS=path ARGS=..  what pytest runs, and further options for it
PYTHON ?= python3
VENV   ?= .venv
EXTRAS ?= rooms,dev
SCALE  ?=
TESTS  ?= tests
ARGS   ?=
# Two test processes with one thread each are faster than one process with two threads.
JOBS   ?= 2

BIN   := $(VENV)/bin
READY := $(VENV)/.fourm-ready

.DEFAULT_GOAL := help
.PHONY: help install quickstart fashion test test-slow lint format docs clean

help:
	@echo "make quickstart   rooms -> tokenizers -> 4M model -> outputs/quickstart/report.html"
	@echo "make fashion      the same on Fashion-MNIST photographs -> outputs/fashion/report.html"
	@echo "make test         unit and property tests          make test-slow   training, processes, wheel"
	@echo "make lint         formatting, lint, types, imports  make format      rewrite the formatting"
	@echo "make docs         the documentation as a site       make install     only the environment"

install: $(READY)

# Stamped, so that a changed pyproject.toml installs again and nothing else does.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "fourm needs Python 3.11 or newer, %s is %s. Name another one: make PYTHON=python3.12" % (sys.executable, sys.version.split()[0]))'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -e '.[$(EXTRAS)]'
	@touch $@

quickstart fashion: $(READY)
	$(BIN)/python -m fourm run $@ $(if $(SCALE),scale=$(SCALE))

test: $(READY)
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist worksteal -q $(ARGS) $(TESTS)

# File by file, since the tests of a file share what it takes long to make, and those with the most work first.
test-slow: $(READY)
	$(BIN)/python -m pytest -m slow -n $(JOBS) --dist loadfile --no-loadscope-reorder -q --durations=10 $(ARGS) $(TESTS)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY)
	$(BIN)/python -m pip install --disable-pip-version-check -q -e '.[docs]'
	$(BIN)/mkdocs build --strict --site-dir outputs/site

clean:
	rm -rf build dist outputs/site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

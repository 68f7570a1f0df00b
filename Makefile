# Two commands matter: `make demo` and `make test`. Both set up what they need, from Python 3.11+, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check bench bench-encoders report clean

demo: $(VENV)/installed
	$(BIN)/python -m demo

test: $(VENV)/test
	$(BIN)/python -m pytest

check: $(VENV)/check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/bench
	$(BIN)/python -m benchmarks.run

bench-encoders: $(VENV)/oracle
	$(BIN)/python -m benchmarks.encoders

report: $(VENV)/bench
	$(BIN)/python -m benchmarks.report

clean:
	rm -rf $(VENV) dist build demo-data .hypothesis .mypy_cache .ruff_cache .pytest_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'

$(VENV)/installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/test $(VENV)/check $(VENV)/bench: $(VENV)/%: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --group $*
	touch $@

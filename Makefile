# make setup | demo | test; needs Python >= 3.10 and nothing else
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test lint

setup: .venv/.installed

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e .
	touch $@

.venv/.tested: .venv/.installed
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $@

demo: setup
	$(BIN)/ufo demo

test: .venv/.tested lint
	$(BIN)/python -m pytest

lint: .venv/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

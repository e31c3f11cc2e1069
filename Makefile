# make setup | demo | check | fix | slow | test | docs | lock; needs Python 3.10 to 3.13 and nothing else
PYTHON ?= python3
BIN := .venv/bin
# processes of the tests; each computes on one thread
WORKERS ?= auto
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 8 --dist worksteal

# else every process of the tests compiles the project again, and pytest rewrites every test again
unexport PYTHONDONTWRITEBYTECODE

# types are checked beside the tests, which leave a core idle while they start and end; all else in turn
MAKEFLAGS += --jobs=2
ifneq ($(filter check test,$(MAKECMDGOALS)),)
types quick: | lint
slow: | quick
endif

.PHONY: setup demo check lint types quick slow fix test docs lock

setup: .venv/.installed

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e .
	touch $@

.venv/.developed: .venv/.installed
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/ufo demo

# style, types, and the tests that train nothing and start no process
check: lint types quick

lint: .venv/.developed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.developed
	$(BIN)/mypy

quick: .venv/.developed
	$(TESTS) -m "not slow and not heavy"

slow: .venv/.developed
	$(TESTS) -m "slow or heavy"

fix: .venv/.developed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# everything; `make check test` runs no test twice
test: lint quick slow

# the documents and the API reference as a site, into build/site
docs: .venv/.developed
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	$(BIN)/python scripts/site.py

# versions with hashes for every Python and system; those in the file stay, LOCK=--upgrade takes newer ones
lock: .venv/.developed
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra docs --universal --python-version 3.10 \
		--generate-hashes --no-emit-index-url --quiet --custom-compile-command "make lock" --output-file requirements.lock $(LOCK)

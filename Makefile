# Everything runs in .venv, which the first target creates. PYTHON picks another interpreter (>= 3.11).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: install quickstart test test-gpu lint format types bench audit clean

install: $(STAMP)

$(STAMP): pyproject.toml setup.py
	$(PYTHON) -c 'import sys; sys.exit("fpl-fast needs Python 3.11 or newer, found %s" % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

quickstart: install  ## supervised and FPL+CPS on the same few labels, then the comparison and the reports
	$(BIN)/fpl-fast quickstart

test: install lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2  # a thread each for two workers

test-gpu:  ## in the current environment, on a machine with a GPU
	$(PYTHON) -m pytest -m gpu

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: install
	$(BIN)/mypy

bench: install
	$(BIN)/python -m pytest bench --benchmark-columns=min,median,iqr,rounds

audit: install
	$(BIN)/fpl-fast bench audit

clean:
	rm -rf $(VENV) build *.egg-info

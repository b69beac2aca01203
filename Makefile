# Everything runs in .venv, which the first target creates. PYTHON picks another interpreter (>= 3.11).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: install quickstart test test-everywhere matrix fuzz chaos ptx safety test-gpu lint format types docs links bench bench-gpu \
	audit clean

install: $(STAMP)

$(STAMP): pyproject.toml setup.py
	$(PYTHON) -c 'import sys; sys.exit("fpl-fast needs Python 3.11 or newer, found %s" % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

quickstart: install  ## supervised, CPS and FPL+CPS on the same few labels, then the comparison and the reports
	$(BIN)/fpl-fast quickstart

# mypy, which uses one core, runs beside the tests; it speaks after them, and the failure of either is one of `make test`.
# Dozens of processes start: they compile the sources once, even where Python is told to keep no bytecode.
test: install lint
	$(BIN)/mypy >$(VENV)/types.txt 2>&1 & types=$$!; \
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder; suite=$$?; \
	wait $$types; types=$$?; cat $(VENV)/types.txt; exit $$((suite | types))

test-everywhere: install  ## the suite as other processors, threads, seeds and orders see it: hours; ARGS=--short, minutes
	$(BIN)/python tests/everywhere.py $(ARGS)

CELLS ?= 3.12:2.11.0 3.13:newest
matrix: install  ## tests with other versions of Python and PyTorch, which are downloaded: CELLS="3.13:2.12.0 …"
	$(BIN)/python tests/matrix.py $(CELLS)

MINUTES ?= 10
fuzz: install  ## random inputs of the losses against float64, on from where it stopped; MINUTES=60, ARGS=--seed=3
	$(BIN)/python tests/fuzz.py --minutes $(MINUTES) $(ARGS)

ROUNDS ?= 100
chaos: install  ## tiny runs, killed, stopped, starved and damaged: minutes; ARGS='--only KIND --seed S' repeats a round
	OMP_NUM_THREADS=1 $(BIN)/python tests/chaos.py --rounds $(ROUNDS) $(ARGS)

ARCHS ?= sm_80 sm_90
ptx: install  ## the compiled kernels in an emulator of PTX, with defects that it must find: half an hour; ARGS='--only C=5 --seed 3'
	OMP_NUM_THREADS=1 $(BIN)/python tests/emulate.py --arch $(ARCHS) --mutations $(ARGS)

safety: install  ## known vulnerabilities (on the network) and licences of the runtime dependencies
	$(BIN)/python tests/safety.py

test-gpu:  ## in the current environment, on a machine with a GPU
	$(PYTHON) -m pytest -m gpu -n 8  # most of the time goes into compiling kernels

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: install
	$(BIN)/mypy

docs: install  ## the site, in build/site/index.html; a broken link or reference is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

links: install  ## the site, and every link to another site: needs a network
	CHECK_LINKS=true NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The headline suite on a CPU, within 4 minutes; the full one on a GPU, within 8. bench-gpu runs in the current
# environment, like test-gpu. What was measured is reported even where a peer was refused, which is a failure.
bench: install
bench: RUN := $(BIN)/python
bench-gpu: RUN := $(PYTHON)
bench bench-gpu:
	$(RUN) -m pytest bench --benchmark-columns=min,median,iqr,rounds; status=$$?; \
	$(RUN) -m fpl_fast.bench.report; exit $$status

audit: install
	$(BIN)/fpl-fast bench audit

clean:
	rm -rf $(VENV) build *.egg-info

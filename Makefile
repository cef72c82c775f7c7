# The README and CI use these targets. PYTHON picks the interpreter that makes the environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ROOMS := cli data methods weights

.PHONY: help setup demo test test-all test-oldest axe lint typecheck wheel-check versions bench bench-bias gpu-check mutants clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(BIN)/attnbias: pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

setup: $(BIN)/attnbias ## Make .venv and install the project with all that its tests need

# Both runs have the same budget and one core each; --lam 0 is CSRA's plain counterpart (average pooling).
DEMO_RUN := --recipe demo --epochs 12 --gpus 0 --threads 1 --eval-splits val,counter,unbiased --eval-batch-size 200 --cache demo/cache --overwrite
demo: setup ## Train CSRA and its plain counterpart on the built-in scenes, audit and compare them, draw where they look
	mkdir -p demo
	$(BIN)/attnbias prepare-data demo
	$(BIN)/attnbias train csra $(DEMO_RUN) --lam 0 --out demo/plain > demo/plain.log 2>&1 & plain=$$!; \
	$(BIN)/attnbias train csra $(DEMO_RUN) --out demo/csra || { kill $$plain; exit 1; }; \
	wait $$plain
	$(BIN)/attnbias val csra --load-from demo/plain --load-from demo/csra --split val,counter,unbiased --bias --truth boxes --store --gpus 0
	$(BIN)/attnbias audit demo/csra demo --against demo/plain --split counter --limit 60 --faithfulness 8 \
		--out demo/audit --overwrite --device cpu
	$(BIN)/attnbias visualize csra --load-from demo/plain --load-from demo/csra --split counter --limit 24 \
		--out demo/gallery --overwrite --device cpu
	$(BIN)/attnbias compare demo/plain demo/csra --report demo/report --overwrite

test: setup ## Run the test suite (at most 12 minutes on 2 cores)
	$(BIN)/pytest -m "not slow" --numprocesses auto --dist loadfile

test-all: setup ## Run every test, also the slow ones
	$(BIN)/pytest --numprocesses auto --dist loadfile

test-oldest: setup ## Run the test suite with the lowest versions that are declared (an environment of its own)
	$(BIN)/python tests/helpers/oldest.py

# Of another licence (MPL-2.0), and needed by tests of pages alone: it is fetched, never kept here.
axe: ## Bring axe-core, which tests hold pages against (needs npm, and Chromium for these tests)
	npm install --no-save --silent axe-core@4.14.1

lint: setup ## Check style with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy does not see setuptools' editable hook, so it reads the package through a small farm of links.
build/typing/attnbias: $(wildcard src/attnbias/*)
	mkdir -p $@
	ln -sfn $(foreach f,$(notdir $^),../../../src/attnbias/$(f)) $@/
	ln -sfn $(foreach r,$(ROOMS),../../../$(r)) $@/

typecheck: setup build/typing/attnbias ## Check types with mypy
	$(BIN)/mypy

wheel-check: setup ## Build sdist and wheel, install the wheel elsewhere, compare its files with the repository's
	$(BIN)/python tests/wheel_check.py

versions: setup ## List the versions of all that is installed
	$(BIN)/python -m pip list --format freeze --exclude-editable

bench: setup ## Measure speed against baselines in the same run
	$(BIN)/python tests/benchmarks/speed.py

bench-bias: setup ## What a bias in fine-tuning costs every method and its plain counterpart, on the built-in scenes
	$(BIN)/python tests/benchmarks/bias.py

gpu-check: setup ## Check a machine with a GPU in ten minutes, into tests/benchmarks/results; without one, a rehearsal
	$(BIN)/python tests/benchmarks/gpu_check.py

mutants: setup ## Put small faults in, one at a time, and count those that the tests notice
	$(BIN)/python tests/mutants/run.py

clean: ## Remove what was built, but not data or runs
	rm -rf build dist *.egg-info src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .venv-oldest $(VENV)

# Cadence: every command a person or CI needs. `make` alone lists them.
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
ARGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install install-quality serve test test-browser test-quality nano lint format bench doctor clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  Extra arguments go in ARGS, for example: make serve ARGS="/models/Step-Audio-2-mini --port 8000"'

install: $(STAMP) ## Create .venv with the pinned packages (PIP_ARGS="--extra-index-url ..." to choose a torch build)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Cadence needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

serve: install ## Serve the built-in model on http://127.0.0.1:8092 (ARGS= for another model or flags)
	@$(BIN)/cadence serve $(ARGS)

test: install ## Run the tests, except those marked slow
	$(BIN)/python -m pytest -m "not slow and not quality" $(ARGS)

install-quality: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev,nano]'

test-quality: install-quality ## Measure the built-in model with an independent recogniser (CADENCE_QUALITY_COUNT=30 sentences)
	$(BIN)/python -m pytest -m quality tests/quality $(ARGS)

nano: ## Train the built-in model from nothing (training/nano; hours to days)
	$(MAKE) -C training/nano nano

test-browser: install ## Run the playground's tests in this machine's Chromium
	@test -n "$$CADENCE_TEST_CHROMIUM" || command -v chromium chromium-browser google-chrome google-chrome-stable >/dev/null || \
	  { echo "The playground is tested in a Chromium of this machine, and there is none. Install one (Debian: apt-get install chromium) or name one: make test-browser CADENCE_TEST_CHROMIUM=/path/to/chrome" >&2; exit 1; }
	$(BIN)/python -m pytest -m browser tests/browser $(ARGS)

lint: install ## Check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install ## Apply ruff's fixes and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install ## Run the benchmarks in short form and update docs/performance.md (ARGS="serve growth" for some)
	@$(BIN)/python bench/run.py $(ARGS)

doctor: install ## Check a checkpoint (ARGS="MODEL_DIR"; default: the built-in model)
	@$(BIN)/cadence doctor $(ARGS)

clean: ## Remove caches and build output (keeps .venv)
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

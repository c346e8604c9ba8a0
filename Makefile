# `make demo` and `make test` set up all they need; `make help` lists the rest.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

# The first Python from 3.11 to 3.13; `make PYTHON=… test` names one.
USABLE := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c '$(USABLE)' 2>/dev/null && command -v $$p && break; done)
UV := $(shell command -v uv 2>/dev/null)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## the virtual environment, from the lock file
$(READY): locks/dev.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Likeness needs Python 3.11, 3.12 or 3.13; none was found. Name one: make PYTHON=/path/to/python3.13"; exit 1; }
	@echo "Setting up $(VENV) with $(PYTHON) ($(if $(UV),uv,pip)) …"
ifneq ($(UV),)
	@uv venv --quiet --clear --no-python-downloads --python "$(PYTHON)" $(VENV)
	@uv pip install --quiet --python $(BIN)/python --require-hashes -r locks/dev.txt
	@uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
else
	@"$(PYTHON)" -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
endif
	@touch $@

demo: $(READY) ## upload pictures to a local S3, search them over HTTP; IMAGES=folder for your own
	@$(BIN)/likeness demo $(if $(IMAGES),"$(IMAGES)")

serve: $(READY) ## the same service, kept running
	@$(BIN)/likeness serve

test: $(READY) ## every test that needs no deployment
	@$(BIN)/python -m pytest $(ARGS)

check: $(READY) ## lint, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

openapi: $(READY) ## write docs/openapi.json anew
	@$(BIN)/python -c 'from functions.search.openapi import document_json; print(document_json().decode())' > docs/openapi.json

lock: ## renew the lock files (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --all-extras --group dev pyproject.toml -o locks/dev.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url pyproject.toml -c locks/dev.txt -o layers/runtime/requirements.txt

clean: ## everything that was built here
	rm -rf $(VENV) .venv-sam .aws-sam .likeness .pytest_cache .mypy_cache .ruff_cache

.PHONY: help setup demo serve test check openapi lock clean

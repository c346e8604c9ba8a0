# `make demo` and `make test` set up all that they need; `make help` lists all targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

# To choose another: `make PYTHON=/path/to/python3 test`.
PYTHON ?= $(shell scripts/find-python 3.13 3.12 3.11)
FOUND = $(foreach version,3.11 3.12 3.13,$(if $(shell scripts/find-python $(version)),$(version)))
# In a shell loop over versions: `make test` on that version, in an environment of its own.
ON_VERSION = echo "Python $$version"; $(MAKE) --no-print-directory test VENV=.venv-$$version \
	PYTHON="$$(scripts/find-python $$version)"
FAST := tests/unit tests/architecture tests/test_wheel.py
UV := $(shell command -v uv 2>/dev/null)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Target and folder of `make build`; `make deploy` deploys it as the stack named in samconfig.toml.
LAMBDA_PYTHON := 3.13
ARCH := x86_64
BUILD := .aws-sam/build
STAGE := dev
# Tools with virtual environments of their own: the SAM CLI, which pins many libraries; the local AWS of
# `make e2e`, whose Python replaces Lambda's and so has boto3 but none of our packages; the fuzzer; the
# audit tools; and what they audit, the packages of the layers and nothing else.
SAM_ENVS := .venv-sam/.ready .venv-ministack/.ready
OWN_ENVS := $(SAM_ENVS) .venv-fuzz/.ready .venv-audit/.ready .venv-deployed/.ready
WITH_SAM := SAM_CLI_TELEMETRY=0 PATH="$(CURDIR)/.venv-sam/bin:$$PATH"
MAX_UNZIPPED_MB := 200
FUZZ_S := 60
TRAINING := PYTHONPATH=.:shared .venv-training/bin/python
EVALUATION := .likeness/evaluation
# OpenBLAS kernels of common x86-64 processors, and the tests that run with each. pytest's faulthandler
# is off: it would catch the signal that avx2_only.c handles.
CORE_TYPES := Sandybridge Haswell Zen SkylakeX
NUMERIC_TESTS = $(BIN)/python -m pytest -q -p no:faulthandler tests/unit tests/quality $(ARGS)
# Licences that deployed packages may have, as the packages spell them. MPL is certifi's, a list of
# certificates that is passed on unchanged.
LICENCES := MIT;MIT License;MIT-CMU;Apache-2.0;Apache Software License;BSD-3-Clause;BSD License;$\
	3-Clause BSD License;Apache-2.0 OR BSD-2-Clause;PSF-2.0;$\
	BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0;Mozilla Public License 2.0 (MPL 2.0)
# --parameter-overrides replaces the parameters of samconfig.toml, so they are passed again.
STAGE_PARAMETERS = $$(.venv-sam/bin/python -c 'import sys, tomllib; \
	stages = tomllib.load(open("samconfig.toml", "rb")); \
	print(*stages[sys.argv[1]]["deploy"]["parameters"]["parameter_overrides"])' $(STAGE))

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## create the virtual environment from the lock file
$(READY): locks/dev.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Likeness needs Python 3.11, 3.12 or 3.13; none was found. Name one: make PYTHON=/path/to/python3.13"; exit 1; }
	@echo "Setting up $(VENV) with $(PYTHON) ($(if $(UV),uv,pip)), which takes a minute …"
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

.venv-deployed/.ready: $(wildcard layers/runtime/*.txt)
$(OWN_ENVS): .venv-%/.ready: locks/%.txt
	@echo "Setting up $(@D) with $(PYTHON) ($(if $(UV),uv,pip)) …"
ifneq ($(UV),)
	@uv venv --quiet --clear --no-python-downloads --python "$(PYTHON)" $(@D)
	@uv pip install --quiet --python $(@D)/bin/python --require-hashes -r $<
else
	@"$(PYTHON)" -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $<
endif
	@echo '*' > $(@D)/.gitignore
	@touch $@

.venv-training/.ready: training/requirements.txt
	@echo "Setting up $(@D) with $(PYTHON), which downloads torch …"
	@"$(PYTHON)" -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $< -e '.[local]'
	@touch $@

demo: $(READY) ## upload images to a local S3 and search them over HTTP; IMAGES=folder for your own
	@$(BIN)/likeness demo $(if $(IMAGES),"$(IMAGES)")

serve: $(READY) ## run the same service until Ctrl-C; SCHEMA='{"brand": "keyword"}' declares metadata
	@$(BIN)/likeness serve $(if $(SCHEMA),--schema '$(SCHEMA)')

test: $(READY) ## run every test that needs no deployment; ARGS='-k reconcil' selects some; TEST_QDRANT_URL=… for a real Qdrant
	@$(BIN)/python -m pytest $(if $(COVERAGE),--cov --cov-report=term --cov-report=html) $(ARGS)

coverage: ## the same with branch coverage: fails below the minimum; report in build/coverage
	@$(MAKE) --no-print-directory test COVERAGE=1

test-all: ## run every test on each Python from 3.11 to 3.13 that is found
	@for version in $(FOUND); do $(ON_VERSION) ARGS='$(ARGS)'; done

test-fast: ## run the fast tests on the lowest and the highest Python that are found
	@for version in $(sort $(firstword $(FOUND)) $(lastword $(FOUND))); do $(ON_VERSION) ARGS='-q $(FAST)'; done

test-wheel: $(READY) ## install the wheel with its dependencies on the highest Python, and run its demo
	@rm -rf build/wheel .venv-wheel
	@"$(lastword $(foreach version,$(FOUND),$(shell scripts/find-python $(version))))" -m venv .venv-wheel
	@.venv-wheel/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/wheel .
	@.venv-wheel/bin/python -m pip install --quiet --disable-pip-version-check "$$(echo build/wheel/*.whl)[local]"
	@LIKENESS_WHEEL_ENVIRONMENT=.venv-wheel $(BIN)/python -m pytest tests/test_wheel.py $(ARGS)

test-cpus: $(READY) ## run unit and quality tests as on other x86-64 processors (needs cc)
	@for core in $(CORE_TYPES); do \
		echo "OPENBLAS_CORETYPE=$$core"; \
		OPENBLAS_CORETYPE=$$core $(NUMERIC_TESTS); \
	done
	@mkdir -p build
	@cc -O1 -shared -fPIC benchmarks/avx2_only.c -o build/avx2_only.so
	@if env LD_PRELOAD=$(CURDIR)/build/avx2_only.so true; then \
		echo "numpy, OpenBLAS and ONNX Runtime without AVX-512"; \
		LD_PRELOAD=$(CURDIR)/build/avx2_only.so $(NUMERIC_TESTS); \
	else echo "skipped: numpy, OpenBLAS and ONNX Runtime without AVX-512"; fi

check: $(READY) .venv-sam/.ready ## check style, types, import rules and the template
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(WITH_SAM) sam validate --lint --region us-east-1

build: .venv-sam/.ready ## build the functions and layers for Lambda's Python and ARCH
	@python=$$($(WITH_SAM) scripts/find-python $(LAMBDA_PYTHON)) || \
		{ echo "Lambda runs Python $(LAMBDA_PYTHON), which also compiles the layers: install it, or put python$(LAMBDA_PYTHON) on the PATH"; exit 1; }; \
	PATH="$$(dirname "$$python"):$$PATH"; \
	LAYER_PYTHON=$(LAMBDA_PYTHON) LAYER_ARCH=$(ARCH) $(WITH_SAM) sam build --build-dir $(BUILD) \
		--parameter-overrides Runtime=python$(LAMBDA_PYTHON) Architecture=$(ARCH)
	@.venv-sam/bin/python scripts/unzipped_sizes.py $(BUILD) $(MAX_UNZIPPED_MB)

deploy: build ## deploy to AWS: QDRANT_URL=… QDRANT_API_KEY=… make deploy STAGE=prod; later without them
	@$(WITH_SAM) sam deploy --config-env $(STAGE) --parameter-overrides \
		$(STAGE_PARAMETERS) Runtime=python$(LAMBDA_PYTHON) Architecture=$(ARCH) \
		$${QDRANT_URL:+"QdrantUrl=$$QDRANT_URL"} $${QDRANT_API_KEY:+"QdrantApiKey=$$QDRANT_API_KEY"} \
		$(PARAMETERS)

e2e: $(READY) $(SAM_ENVS) ## deploy the template into a local AWS, and test it over HTTP; TEST_QDRANT_URL=… for a real Qdrant
	@$(MAKE) --no-print-directory build BUILD=.aws-sam/e2e \
		LAMBDA_PYTHON=$$(.venv-ministack/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
	@$(BIN)/python -m pytest -m e2e tests/e2e $(ARGS)

evaluate: $(READY) ## compare the bundled model with others on pictures it was not trained on: DATA=folder [MODELS=folder] [EARLIER=bundle]
	@test -n "$(DATA)" || { echo "Name the folder that holds grocery/, copies/, clothing/ and varied/: make evaluate DATA=…"; exit 1; }
	@PYTHONPATH=. $(BIN)/python training/evaluate.py "$(DATA)" $(EVALUATION) \
		$(if $(MODELS),--models "$(MODELS)") $(if $(EARLIER),--earlier "$(EARLIER)") \
		$(if $(RUN),--float "$(WORK)/$(RUN)/image.f32.onnx")

# Everything that follows from another network, in order; the time goes into evaluation.
model: .venv-training/.ready $(READY) ## ship a run of training/train.py as the bundled model: DATA=… MODELS=… WORK=… RUN=… [EARLIER=bundle]
	@test -n "$(DATA)" -a -n "$(WORK)" -a -n "$(RUN)" || { echo "Name DATA, WORK and RUN: see training/README.md"; exit 1; }
	@for step in export quantise parity; do $(TRAINING) training/$$step.py "$(DATA)" "$(WORK)" "$(RUN)"; done
	@$(TRAINING) training/bundle.py "$(WORK)" "$(RUN)"
	@PYTHONPATH=.:shared $(BIN)/python training/families.py "$(DATA)" "$(WORK)/families"
	@$(BIN)/likeness calibrate "$(WORK)/families/pictures.csv" --pictures 600 --model layers/model
	@$(MAKE) --no-print-directory evaluate
	@$(TRAINING) training/bundle.py "$(WORK)" "$(RUN)" --evaluation $(EVALUATION)/evaluation.json
	@LIKENESS_WRITE_GOLDEN=1 $(BIN)/python -m pytest -q tests/unit/test_embedding.py tests/unit/test_preprocessing.py
	@$(MAKE) --no-print-directory baseline

fuzz: .venv-fuzz/.ready ## feed each parser damaged files, events and tokens for FUZZ_S=60 seconds
	@for target in decoder events tokens; do \
		PYTHONPATH=shared:. .venv-fuzz/bin/python -m fuzz.run $$target build/fuzz/$$target \
			-max_total_time=$(FUZZ_S) -max_len=16384 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1; \
	done

sbom: .venv-audit/.ready .venv-deployed/.ready ## list the deployed packages and their licences; fails on a licence that is not allowed
	@mkdir -p build
	@.venv-deployed/bin/python -m pip --quiet uninstall --yes setuptools pip 2>/dev/null || true # not deployed
	@.venv-audit/bin/cyclonedx-py environment --output-reproducible -o build/sbom.json .venv-deployed/bin/python
	@{ printf '# Licences of the deployed packages\n\nGenerated by `make sbom` from the locks in layers/runtime.\n\n'; \
		.venv-audit/bin/pip-licenses --python .venv-deployed/bin/python --allow-only "$(LICENCES)" \
			--format markdown --with-urls; } > build/licences.md
	@mv build/licences.md docs/reference/licences.md
	@echo "build/sbom.json (CycloneDX), docs/reference/licences.md: $$(grep -c '^| [a-z]' docs/reference/licences.md) packages, all licences allowed"

gate: $(READY) ## compare the bundled model's results with the stored baseline; part of `make test`
	@$(BIN)/python -m pytest tests/quality $(ARGS)

baseline: $(READY) ## measure the baseline of `make gate` again
	@$(BIN)/python -m tests.quality.gate

page: $(READY) ## test the page in a browser, and renew its screenshot, docs/page.png
	@$(BIN)/python -m pytest tests/page $(ARGS)
	@cp .likeness/page/readme.png docs/page.png

faults: $(READY) ## generate docs/reference/faults.md from the tests
	@$(BIN)/python -m tests.faults.page

openapi: $(READY) ## generate docs/reference/openapi.json
	@$(BIN)/python -c 'from functions.search.openapi import document_json; print(document_json().decode())' > docs/reference/openapi.json

lock: ## renew the lock files (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --all-extras --group dev pyproject.toml -o locks/dev.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url pyproject.toml -c locks/dev.txt -o layers/runtime/requirements.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --extra index $$(sed -En 's/^([a-z0-9-]+)==.*/--no-emit-package \1/p' \
			layers/runtime/requirements.txt) \
		pyproject.toml -c locks/dev.txt -o layers/runtime/qdrant-client.txt
	for env in sam ministack fuzz audit; do uv pip compile --quiet --universal --python-version 3.11 \
		--generate-hashes --no-header --no-emit-index-url locks/$$env.in -o locks/$$env.txt; done

clean: ## delete all environments, caches and build results
	rm -rf $(VENV) .venv-3.* .venv-wheel .venv-training $(OWN_ENVS:/.ready=) .aws-sam .likeness .hypothesis .pytest_cache .mypy_cache \
		.ruff_cache .import_linter_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help setup demo serve test coverage test-all test-fast test-wheel test-cpus check build deploy e2e evaluate model fuzz sbom gate baseline page faults openapi lock clean

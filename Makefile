# Two commands do all the set-up: `make run` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
MODEL ?= smollm2-135m-instruct
PORT ?= 8600
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
COMETBFT_VERSION := v0.40.0

.PHONY: setup run test check bench soak fraud e2e e2e-pythons web lock clean cometbft

setup: $(STAMP)

$(STAMP): requirements/all.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/all.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(STAMP)

run: setup
	$(BIN)/avow up --demo --model $(MODEL) --port $(PORT)

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadgroup tests

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python tools/check_purity.py

bench: setup
	$(BIN)/python -m benchmarks

# The verifier for browsers, and the copy of it that the gateway's page loads.
web:
	cd web/verify && npm ci --ignore-scripts && npm run check && npm run build

soak: setup
	$(BIN)/python -m tests.soak

# Fraud planted in every kind of operator of every real model, on a running network, caught by the watcher's process. Goes on where it was
# ended; the first time it fetches and compiles the models. Its short form is in `make test`.
fraud: setup
	$(BIN)/python -m tests.soak_fraud

# Four validators under load, perturbed two hundred times; random manifests of up to seven; every crash point, lies, other Pythons, 10,000
# blocks: about two hours. `make e2e MINUTES=45` begins nothing new after 45 minutes, and the next `make e2e` goes on where it stopped
# (build/e2e/report.json). The short form is in `make test`.
MINUTES ?= 0
e2e: setup cometbft e2e-pythons
	$(BIN)/python -m tests.e2e.whole --minutes $(MINUTES) --report build/e2e/report.json

# Other versions of Python with what the chain needs, as far as they are installed.
e2e-pythons:
	for version in 3.12 3.13; do \
	  if python$$version -c "" 2>/dev/null && ! test -x build/e2e/py$$version/bin/python; then \
	    python$$version -m venv build/e2e/py$$version && build/e2e/py$$version/bin/python -m pip install --quiet \
	      --disable-pip-version-check . "aiohttp>=3.14" "starlette>=1.10" "uvicorn[standard]>=0.54"; \
	  fi; \
	done

# The consensus engine of networks with several validators; needs Go 1.25 and two minutes. Go checks the module's published digest.
cometbft: build/bin/cometbft

build/bin/cometbft:
	GOBIN=$(abspath build/bin) go install github.com/cometbft/cometbft/cmd/cometbft@$(COMETBFT_VERSION)

lock:
	$(BIN)/pip-compile --quiet --strip-extras --generate-hashes --no-emit-index-url --no-emit-find-links --allow-unsafe \
	  --extra node --extra exact --extra compile --extra dev --output-file requirements/all.lock pyproject.toml

clean:
	rm -rf build dist $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

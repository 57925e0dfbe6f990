# `make serve` and `make test` do all their own set-up; Python 3.11 or newer is all they need.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup serve test soak lint bench clean
.DEFAULT_GOAL := serve

# The pinned set and nothing else: --no-deps keeps CUDA packages away from machines without a GPU.
.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Rootstock needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-deps -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	@$(BIN)/python -c 'import torch' || (echo "torch does not start here: install its CPU build (README, Install), then run make again" && exit 1)
	touch $@

.venv/ready-dev: .venv/ready requirements-dev.lock
	$(BIN)/pip install --quiet --no-deps -r requirements-dev.lock
	touch $@

setup: .venv/ready

serve: .venv/ready
	$(BIN)/rootstock serve

test: .venv/ready-dev
	$(BIN)/pytest

# All suites, the long ones too: property tests at full length and at random, real processes killed and restarted.
soak: .venv/ready-dev
	$(BIN)/pytest -m "" --hypothesis-profile=soak

lint: .venv/ready-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Memory with 500 resident adapters, uploads under load. Minutes; writes benchmarks/results/.
bench: .venv/ready
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/upload_under_load.py

clean:
	rm -rf .venv

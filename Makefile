# `make serve` and `make test` do all their own set-up; Python 3.11 or newer is all they need.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup serve test soak lint bench imports reproduce data-named clean
.DEFAULT_GOAL := serve

# The pinned set and nothing else: --no-deps keeps CUDA packages away from machines without a GPU.
.venv/ready: requirements.lock pyproject.toml $(wildcard service/engine/native/*.cpp service/engine/native/*.h)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Rootstock needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-deps -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	@$(BIN)/python -c 'import torch' || (echo "torch does not start here: install its CPU build (README, Install), then run make again" && exit 1)
	touch $@

.venv/ready-dev: .venv/ready requirements-dev.lock
	$(BIN)/pip install --quiet --no-deps -r requirements-dev.lock
	touch $@

.venv/ready-bench: .venv/ready requirements-bench.lock
	$(BIN)/pip install --quiet --no-deps -r requirements-bench.lock
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

# Memory with 1,000 resident adapters, uploads under load. Minutes; writes benchmarks/results/.
bench: .venv/ready
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/upload_under_load.py

# What other libraries save, imported, beside the libraries' own answers; exit code 1 where these differ. PEERS takes their
# environments. Minutes; writes benchmarks/results/imports.json.
PEERS ?= build/peers

imports: .venv/ready-dev
	PYTHONPATH=. $(BIN)/python benchmarks/imports.py --peers "$(PEERS)"

# The adapter paper's experiment, from public data to docs/experiment.md: make reproduce DATA=folder. More than a hundred
# trainings, which is many hours on a laptop. It can be cut at any time: the same command goes on from the last finished
# epoch. DATA is laid out as docs/experiment-data.md says; WORK takes what is trained.
WORK ?= build/reproduce

reproduce: data-named .venv/ready-bench
	$(BIN)/python benchmarks/data_sets.py --data "$(DATA)" --out "$(WORK)/data"
	$(BIN)/python benchmarks/reproduce.py --data "$(WORK)/data" --work "$(WORK)"
	$(BIN)/python benchmarks/reproduce_checks.py --data "$(WORK)/data" --work "$(WORK)"
	$(BIN)/python benchmarks/reproduce_page.py

data-named:
	@test -d "$(DATA)" || (echo "say where the data sets are: make reproduce DATA=folder (see docs/experiment-data.md)" && exit 1)

clean:
	rm -rf .venv

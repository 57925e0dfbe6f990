# `make serve` and `make test` do all their own set-up; Python 3.11 or newer is all they need.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup serve test soak lint docs bench bench-fast bench-data imports reproduce data-named clean
.DEFAULT_GOAL := serve
WORK ?= build/benchmarks
PARALLEL := --numprocesses=auto --maxprocesses=4 --dist=worksteal  # a process of torch each

# The pinned set and nothing else: --no-deps keeps CUDA packages away from machines without a GPU.
.venv/ready: requirements.lock pyproject.toml $(wildcard service/engine/native/*.cpp service/engine/native/*.h)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Rootstock needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-deps -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	@$(BIN)/python -c 'import torch' || (echo "torch does not start here: install its CPU build (docs/getting-started.md), then run make again" && exit 1)
	touch $@

.venv/ready-dev: .venv/ready requirements-dev.lock requirements-telemetry.lock
	$(BIN)/pip install --quiet --no-deps -r requirements-dev.lock -r requirements-telemetry.lock
	touch $@

.venv/ready-clients: .venv/ready-dev requirements-clients.lock
	$(BIN)/pip install --quiet --no-deps -r requirements-clients.lock
	touch $@

.venv/ready-stores: .venv/ready-clients requirements-stores.lock
	$(BIN)/pip install --quiet --no-deps -r requirements-stores.lock
	touch $@

.venv/ready-bench: .venv/ready requirements-bench.lock
	$(BIN)/pip install --quiet --no-deps -r requirements-bench.lock
	touch $@

setup: .venv/ready

serve: .venv/ready
	$(BIN)/rootstock serve

test: .venv/ready-dev
	$(BIN)/pytest $(PARALLEL)

# All suites, the long ones too: property tests at full length and at random, real processes killed and restarted, the
# protocols' own clients, a store over HTTP, a real Prometheus (Debian's package `prometheus`).
soak: .venv/ready-stores
	@command -v prometheus promtool > /dev/null || (echo "Prometheus is needed: Debian's package \`prometheus\` has it, with promtool" && exit 1)
	$(BIN)/pytest $(PARALLEL) -m "" --hypothesis-profile=soak

lint: .venv/ready-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml deploy/compose-cuda.yml

# What is made from the code: pages of the documentation, and the dashboard.
docs: .venv/ready-dev
	$(BIN)/rootstock reference settings > docs/settings.md
	$(BIN)/rootstock reference metrics > docs/metrics.md
	$(BIN)/rootstock reference http > docs/http.md
	PYTHONPATH=. $(BIN)/python deploy/dashboard.py

# The engine beside its peers, HTTP beside the engine, memory, uploads under load, training: make bench DATA=folder, two
# hours on a quiet machine; make bench-fast is the engine's part in two minutes. DATA is laid out as docs/experiment-data.md says;
# WORK takes the peers' environments. Writes benchmarks/results/ and docs/performance.md.
bench: bench-data
	$(BIN)/python benchmarks/engine.py --data "$(WORK)/data" --peers "$(WORK)/peers"
	$(BIN)/python benchmarks/engine_page.py
	$(BIN)/python benchmarks/http_load.py --data "$(WORK)/data"
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/upload.py
	$(BIN)/python benchmarks/upload_under_load.py
	$(BIN)/python benchmarks/swaps.py
	$(BIN)/python benchmarks/storm.py
	$(BIN)/python benchmarks/first_adapter.py --data "$(WORK)/data"
	$(BIN)/python benchmarks/training_speed.py --data "$(WORK)/data" --peers "$(WORK)/peers"

bench-fast: bench-data
	$(BIN)/python benchmarks/engine.py --data "$(WORK)/data" --peers "$(WORK)/peers" --fast

bench-data: data-named .venv/ready-bench
	$(BIN)/python benchmarks/data_sets.py --data "$(DATA)" --out "$(WORK)/data"
	mkdir -p "$(WORK)/peers"

# What other libraries save, imported, beside the libraries' own answers; exit code 1 where these differ. WORK takes their
# environments. Minutes; writes benchmarks/results/imports.json.
imports: .venv/ready-dev
	PYTHONPATH=. $(BIN)/python benchmarks/imports.py --peers "$(WORK)/peers"

# The adapter paper's experiment, from public data to docs/experiment.md: make reproduce DATA=folder. More than a hundred
# trainings, which is many hours on a laptop. It can be cut at any time: the same command goes on from the last finished
# epoch. DATA is laid out as docs/experiment-data.md says; WORK takes what is trained.
reproduce: data-named .venv/ready-bench
	$(BIN)/python benchmarks/data_sets.py --data "$(DATA)" --out "$(WORK)/data"
	$(BIN)/python benchmarks/reproduce.py --data "$(WORK)/data" --work "$(WORK)"
	$(BIN)/python benchmarks/reproduce_checks.py --data "$(WORK)/data" --work "$(WORK)"
	$(BIN)/python benchmarks/reproduce_page.py

data-named:
	@test -d "$(DATA)" || (echo "say where the data sets are: DATA=folder (see docs/experiment-data.md)" && exit 1)

clean:
	rm -rf .venv

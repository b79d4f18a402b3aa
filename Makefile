# Every target builds what it needs first; a changed Rust file is rebuilt by itself.
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
export PATH := $(BIN):$(PATH)
RUST_SOURCES := $(shell find rust -name '*.rs' -o -name 'Cargo.toml' -o -name '*.pyi') Cargo.toml Cargo.lock

.PHONY: help
help: ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/.dev: requirements/dev.txt
	@echo "Python packages: installing into .venv (0.7 GB, most of it ClickHouse)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	touch $@

$(VENV)/.native: $(VENV)/.dev $(RUST_SOURCES) rust/python/pyproject.toml
	@echo "native module: building in release mode (some minutes the first time)"
	log=$$($(BIN)/maturin develop --quiet --release --locked --manifest-path rust/python/Cargo.toml 2>&1) || { echo "$$log"; exit 1; }
	touch $@

$(VENV)/.python: $(VENV)/.native bus/pyproject.toml services/pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e bus -e services
	touch $@

.PHONY: build
build: $(VENV)/.python ## the virtual environment with everything built in release mode

.PHONY: demo
demo: build ## the whole backend with 64 bots, kills included, in one minute
	@$(BIN)/zmqgame-cli demo $(ARGS)

.PHONY: lint
lint: build ## formatting, lints and types, Rust and Python
	cargo fmt --all --check
	cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: test-rust
test-rust: ## the Rust tests
	cargo test --quiet --locked --workspace --exclude zmqgame-native
	cargo test --quiet --locked -p zmqgame-sim --features broken --test variants

.PHONY: sim
sim: ## SEEDS=0..1000: the seeded simulation of hubs, nodes, clients and store under faults
	cargo run --quiet --release --locked -p zmqgame-sim -- --seeds $(or $(SEEDS),0..200)

.PHONY: sim-variants
sim-variants: ## SEEDS=10000..10200: takes one rule of the bus away at a time, shows the first seed that notices
	cargo run --quiet --release --locked -p zmqgame-sim --features broken -- --variants $(or $(SEEDS),10000..10200)

.PHONY: fuzz
fuzz: ## SECONDS=60 for all targets, or TARGET=bus_hub: libFuzzer over every decoder; what it finds becomes a test
	@nice rust/fuzz/run $(or $(SECONDS),60) $(TARGET)

target/ferretdb/.built: tests/ferretdb/main.go tests/ferretdb/go.mod tests/ferretdb/go.sum
	@if command -v go > /dev/null; then tests/ferretdb/build > /dev/null; fi
	mkdir -p $(@D) && touch $@

.PHONY: chaos
chaos: build ## CYCLES=1000 SEED=1 STORE=sqlite RESUME=FOLDER: real processes killed, stopped, cut, out of disk
	@$(BIN)/python -m tests.chaos --cycles $(or $(CYCLES),100) $(if $(SEED),--seed $(SEED)) $(if $(STORE),--store $(STORE)) $(if $(RESUME),--resume $(RESUME)) $(ARGS)

.PHONY: test-python
test-python: build target/ferretdb/.built ## the Python tests; ARGS=FILE for one
	$(BIN)/python -m pytest $(or $(ARGS),--numprocesses 3 --dist loadfile --no-loadscope-reorder)

.PHONY: test
test: lint test-rust test-python ## everything

.PHONY: format
format: build ## rewrite the sources in the project's format
	cargo fmt --all
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: bench
bench: build ## BENCH=bus|edge|decoder|tick|stats, QUICK=1 for at most 45 s each (bus, edge: minutes)
	$(BIN)/python -m tests.bench $(BENCH) $(if $(QUICK),--quick)

.PHONY: wheels
wheels: build ## the three distributions, in dist/
	rm -rf dist
	$(BIN)/maturin build --quiet --release --locked --manifest-path rust/python/Cargo.toml --out dist
	for project in bus services; do $(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist ./$$project; done
	ls -l dist

.PHONY: requirements
requirements: ## pin requirements/*.in again (needs pip-tools)
	for file in runtime dev; do pip-compile --quiet --generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-header --strip-extras --allow-unsafe --output-file requirements/$$file.txt requirements/$$file.in; done

.PHONY: clean
clean: ## remove what was built
	rm -rf .venv target dist var

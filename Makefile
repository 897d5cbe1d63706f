# imdsproxy: `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
BUN := node_modules/.bin/bun
BINARY := dist/imdsproxy
# CONFIG=FILE chooses the configuration; without it, /etc/imdsproxy/config.yaml, else the defaults.
CONFIG ?=
CONFIG_FLAG := $(if $(CONFIG),--config $(CONFIG))
# FLAGS passes anything further, for instance FLAGS=--dry-run
FLAGS ?=
# What needs root asks sudo for it.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: help
help: ## Lists the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z0-9-]+:.*## / { printf "  %-46s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

node_modules/.installed: package.json bun.lock scripts/bootstrap.sh
	@sh scripts/bootstrap.sh
	@touch $@

SOURCES := $(shell find src -name '*.ts' 2>/dev/null)

$(BINARY): $(SOURCES) scripts/build.ts node_modules/.installed
	@$(BUN) scripts/build.ts

.PHONY: build
build: $(BINARY) ## Builds dist/imdsproxy for this machine

.PHONY: dist
dist: node_modules/.installed ## Builds the executables of a release, compressed, with SHA256SUMS
	@$(BUN) scripts/build.ts --release

.PHONY: check
check: node_modules/.installed ## Lint and type check
	@node_modules/.bin/biome check --error-on-warnings .
	@node_modules/.bin/tsc --noEmit

.PHONY: test
test: build ## Runs the tests; as root also those on a simulated node (TESTS=PATH chooses)
	@if [ "$$(id -u)" = 0 ]; then sh scripts/install-test-packages.sh; fi
	@$(BUN) test --timeout=60000 $(TESTS)

.PHONY: demo
demo: build ## Shows the main job on a simulated node in this machine; asks for root
	@sh scripts/install-test-packages.sh --demo
	@$(SUDO) $(BINARY) demo $(FLAGS)

.PHONY: clean
clean: ## Removes build output
	rm -rf dist

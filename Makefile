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
dist: node_modules/.installed ## Builds a release in dist/release, for every target (SIGNING_KEY=FILE signs its sums)
	@$(BUN) scripts/build.ts --release

.PHONY: check
check: node_modules/.installed ## Lint and type check
	@node_modules/.bin/biome check --error-on-warnings .
	@node_modules/.bin/tsc --noEmit

# What needs root, the built executable or a program that a plain Debian has not is in these folders, and nowhere else
# (test/unit-set.test.ts holds that); the last two have targets of their own. A twentieth of the random inputs of the property tests
# keeps the rest under 20 s; `make test` runs all of them. JavaScriptCore's last optimizer pays for code that runs for minutes: here it took
# a fifth of the processors' time for less than that.
NOT_UNIT := test/attack/ test/boot/ test/host/ test/node/ test/clients/ test/platforms/
UNIT := $(filter-out $(NOT_UNIT) test/support/,$(sort $(wildcard test/*/))) $(wildcard test/*.test.ts)

.PHONY: unit
unit: node_modules/.installed ## Runs the tests that need neither root nor a build, in seconds (TESTS=PATH chooses)
	@env -u CI BUN_JSC_useFTLJIT=0 IMDSPROXY_FUZZ_RUNS=$${IMDSPROXY_FUZZ_RUNS:-0.05} $(BUN) test --timeout=180000 --only-failures \
		--parallel --no-isolate $(or $(TESTS),$(UNIT))

.PHONY: unit-as-nobody
unit-as-nobody: node_modules/.installed ## Runs make unit as an ordinary user in a copy without a build; needs root
	@$(SUDO) $(BUN) test ./test/host/unit-as-nobody.ts

.PHONY: test
test: build ## Runs the tests; as root also those on a simulated node (TESTS=PATH chooses)
	@if [ "$$(id -u)" = 0 ]; then sh scripts/install-test-packages.sh; fi
	@$(BUN) scripts/run-tests.ts $(TESTS)

.PHONY: test-clients
test-clients: build ## Runs 22 AWS clients of nine languages through the proxy and writes docs/clients.md (ONLY=id,id: some of them)
	@sh scripts/install-test-packages.sh
	@ONLY=$(ONLY) $(BUN) test --timeout=60000 ./test/clients/all.ts

# CI does not run it: it takes two minutes where nothing else does, and needs Debian's ufw, firewalld and Docker.
.PHONY: test-firewalls
test-firewalls: build ## As root: real ufw, firewalld and Docker in a namespace, under siege (IMDSPROXY_FLUSHES=N: how often)
	@sh scripts/install-test-packages.sh
	@sh scripts/install-test-packages.sh --firewalls
	@$(BUN) test --timeout=60000 ./test/attack/real-firewalls.ts

# CELLS='userland-trixie kernel-forky trixie:install,boot' chooses cells and scenarios; without it, all of test/platforms/cells.ts. CI runs
# one cell (test/boot/platform.test.ts). In a mount namespace of its own, for the images that it mounts.
CELLS ?=
.PHONY: test-platforms
test-platforms: build ## As root: other releases' userlands in containers, their kernels in emulated machines; writes docs/platforms.md (CELLS=NAME)
	@sh scripts/install-test-packages.sh --platforms
	@$(SUDO) unshare --mount --propagation private $(BUN) test/platforms/run.ts $(CELLS)

.PHONY: test-directory
test-directory: build ## As root: users of a real LDAP directory by SSSD, which goes away; not run by CI
	@sh scripts/install-test-packages.sh
	@$(SUDO) $(BUN) test --timeout=60000 ./test/platforms/directory.ts

# Both linters are in Python's registry, in an environment of their own below .cache.
.PHONY: test-iam
test-iam: build ## Reads what `imdsproxy iam` prints by cfn-lint and a parser of Terraform; needs python3-venv and a registry
	@test -x .cache/iam-linters/bin/cfn-lint || { python3 -m venv .cache/iam-linters && \
		.cache/iam-linters/bin/pip install --quiet cfn-lint==1.58.0 python-hcl2==8.1.4; }
	@LINTERS=$(CURDIR)/.cache/iam-linters/bin $(BUN) test --timeout=60000 ./test/host/iam-linters.ts

# The validator is in Python's registry, in an environment of its own below .cache: not the library that writes the list. It took 13 minutes
# on two cores that sixty other processes wanted.
.PHONY: test-release
test-release: node_modules/.installed ## Builds a release twice, in two directories, and compares; needs python3-venv and a registry
	@test -x .cache/sbom/bin/python || { python3 -m venv .cache/sbom && \
		.cache/sbom/bin/pip install --quiet 'cyclonedx-python-lib[json-validation]==11.12.0'; }
	@VALIDATOR=$(CURDIR)/.cache/sbom/bin/python $(BUN) test --timeout=600000 ./test/host/release.ts

.PHONY: transcript
transcript: build ## As root: records docs/first-hour.md on a booted node
	@sh scripts/install-test-packages.sh
	@$(SUDO) $(BUN) test --timeout=60000 ./test/boot/transcript.ts

.PHONY: test-sarif
test-sarif: node_modules/.installed ## doctor --sarif against the schema of SARIF 2.1.0, from npm; not run by CI
	@test -d .cache/sarif-schema/node_modules || npm install --silent --no-audit --no-fund --ignore-scripts \
		--prefix .cache/sarif-schema @microsoft/jest-sarif@1.0.0-beta.0
	@SCHEMA=$(CURDIR)/.cache/sarif-schema $(BUN) test ./test/doctor/sarif-schema.ts

.PHONY: test-prometheus
test-prometheus: build ## As root: Debian's Prometheus scrapes a proxy under load; every query of docs/prometheus returns data
	@sh scripts/install-test-packages.sh
	@$(SUDO) $(BUN) test --timeout=60000 ./test/node/prometheus.ts

.PHONY: prometheus-picture
prometheus-picture: build ## As root: test-prometheus, and docs/prometheus/metrics.png by a headless chromium, which must be installed
	@sh scripts/install-test-packages.sh
	@$(SUDO) env IMDSPROXY_PICTURE=$(CURDIR)/docs/prometheus/metrics.png $(BUN) test --timeout=60000 ./test/node/prometheus.ts

.PHONY: test-audit
test-audit: build ## As root: the SQL of docs/audit.md on events as CloudTrail has them, in DuckDB, which pip installs in .cache
	@sh scripts/install-test-packages.sh
	@$(SUDO) $(BUN) test --timeout=60000 ./test/node/audit-queries.ts

# moto is in Python's registry, in an environment of its own below .cache.
.PHONY: test-fleet
test-fleet: build ## As root: the fleet's object with moto's S3 and SSM, on a booted node, and on three nodes under load (IMDSPROXY_ROLLOUTS=N)
	@sh scripts/install-test-packages.sh
	@test -x .cache/moto/bin/moto_server || { python3 -m venv .cache/moto && .cache/moto/bin/pip install --quiet 'moto[s3,ssm,server]==5.1.4'; }
	@MOTO=$(CURDIR)/.cache/moto/bin/moto_server $(BUN) test --timeout=60000 ./test/fleet/moto.ts
	@$(SUDO) $(BUN) test --timeout=200000 ./test/node/fleet-rollout.ts ./test/boot/fleet.ts

.PHONY: run-proxy
run-proxy: build ## Runs the proxy in the foreground, to try it; Ctrl-C ends it
	@$(SUDO) $(BINARY) serve $(CONFIG_FLAG) $(FLAGS)

.PHONY: demo
demo: build ## Shows the main job on a simulated node in this machine; asks for root
	@sh scripts/install-test-packages.sh --demo
	@$(SUDO) $(BINARY) demo $(FLAGS)

.PHONY: clean
clean: ## Removes build output
	rm -rf dist

# --- The firewall, by the names of the documentation that this project began from -----------------------------------
# CONFIG=FILE and FLAGS=--dry-run work for each; what changes the node asks sudo where it is not run by root.
.PHONY: remove-original-iptables-entry revive-original-iptables-entry add-proxy-iptables-entries \
	remove-proxy-iptables-entries block-direct-access-to-sagemaker-role unblock-direct-access-to-sagemaker-role \
	list-iptables list-iptables-all check-direct-access

remove-original-iptables-entry: build ## Removes the HyperPod agent's own entry
	@$(SUDO) $(BINARY) iptables remove-original $(CONFIG_FLAG) $(FLAGS)

revive-original-iptables-entry: build ## Puts the HyperPod agent's own entry back
	@$(SUDO) $(BINARY) iptables restore-original $(CONFIG_FLAG) $(FLAGS)

add-proxy-iptables-entries: build ## Sends ordinary users' metadata requests to the proxy
	@$(SUDO) $(BINARY) iptables add-proxy $(CONFIG_FLAG) $(FLAGS)

remove-proxy-iptables-entries: build ## Takes that redirect away
	@$(SUDO) $(BINARY) iptables remove-proxy $(CONFIG_FLAG) $(FLAGS)

block-direct-access-to-sagemaker-role: build ## Refuses ordinary users' direct connections to the instance role
	@$(SUDO) $(BINARY) iptables block-direct $(CONFIG_FLAG) $(FLAGS)

unblock-direct-access-to-sagemaker-role: build ## Takes that block away
	@$(SUDO) $(BINARY) iptables unblock-direct $(CONFIG_FLAG) $(FLAGS)

list-iptables: build ## Shows our rules
	@$(SUDO) $(BINARY) iptables list $(CONFIG_FLAG) $(FLAGS)

list-iptables-all: build ## Shows every rule of the node
	@$(SUDO) $(BINARY) iptables list --all $(CONFIG_FLAG) $(FLAGS)

check-direct-access: build ## Tries to get past the proxy as an ordinary user: fails when access is closed, as it should
	@$(BINARY) iptables check-direct $(CONFIG_FLAG) $(FLAGS)
# --- End of the firewall ------------------------------------------------------------------------------------------

.PHONY: bench
bench: build ## As root: what a request costs, beside nginx, a minimal Bun server and BEFORE=another build
	@$(BUN) scripts/bench.ts

# CI does not run it: it needs Go and its module proxy.
.PHONY: bench-go
bench-go: build ## As root: the same beside servers in Go, among them two of AWS's; builds them in .cache
	@sh scripts/bench/install-go-servers.sh .cache/go-servers
	@GO=1 $(BUN) scripts/bench.ts

.PHONY: bench-code
bench-code: node_modules/.installed ## What our own code takes of a request, without the kernel; also on a busy machine
	@$(BUN) scripts/bench-code.ts

.PHONY: bench-start
bench-start: build ## As root: from exec to the first answer, beside a minimal Bun server and BEFORE=another build
	@$(BUN) scripts/bench-start.ts

.PHONY: bench-memory
bench-memory: build ## As root: resident memory at rest, after 10^6 requests, and with as many sessions as there may be
	@$(BUN) scripts/bench-memory.ts

.PHONY: bench-sessions
bench-sessions: node_modules/.installed ## What a session takes of the heap, by our own code alone (SESSIONS=4000 NAMELESS=1); also on a busy machine
	@$(BUN) scripts/bench-sessions.ts

.PHONY: fleet
fleet: node_modules/.installed ## Simulates what a cluster asks of STS (NODES=10000 IDENTITIES=50 QUOTA=600 ONLY=day); WRITE=1: docs/scale.md
	@$(BUN) scripts/fleet.ts

.PHONY: soak
soak: build ## As root: an hour of faults on a simulated node, invariants checked all along (MINUTES=5 SEED=N); WRITE=1: docs/scale.md
	@sh scripts/install-test-packages.sh
	@$(SUDO) env MINUTES="$${MINUTES:-60}" $(if $(SEED),SEED="$(SEED)") $(if $(WRITE),WRITE="$(WRITE)") $(BUN) scripts/soak.ts

# CI does not run it: each fault takes as long as the clients do.
.PHONY: test-storms
test-storms: build ## As root: what boto3, npm's SDK and the AWS CLI see while STS and others fail, and when it ends (ONLY=hangs); WRITE=1: docs/scale.md
	@sh scripts/install-test-packages.sh
	@$(SUDO) env ONLY="$(ONLY)" WRITE="$(WRITE)" $(BUN) test --timeout=60000 ./test/node/storm-clients.ts

.PHONY: bench-wall
bench-wall: build ## Measures what the second wall costs connections that have nothing to do with it
	@$(BUN) scripts/bench-wall.ts

# --- The systemd service, by the names of the documentation that this project began from ----------------------------
# The first installation needs a role: CONFIG=FILE, or FLAGS='--role-arn ARN'. FLAGS=--dry-run shows what would be done.
.PHONY: install-service enable-service disable-service service-status
install-service: build ## Puts the service into place: executable, account, configuration, units
	@$(SUDO) $(BINARY) service install $(CONFIG_FLAG) $(FLAGS)

enable-service: build ## Starts the installed service, now and at every boot
	@$(SUDO) $(BINARY) service enable $(FLAGS)

disable-service: build ## Stops the service and gives the node its own firewall back
	@$(SUDO) $(BINARY) service disable $(FLAGS)

service-status: build ## Says whether the service is installed, enabled and running
	@$(BINARY) service status $(FLAGS)

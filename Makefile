# On a Debian or Ubuntu machine with Go, git and make, `make demo` and
# `make test`, as root, do everything: scripts/setup installs what is missing.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
.NOTPARALLEL:

# CI runners may set neither HOME, where Go keeps its caches, nor a PATH with
# the system's folders or Go's own.
export PATH := $(PATH):/usr/local/go/bin:/usr/local/sbin:/usr/sbin:/sbin
ifndef HOME
export HOME := $(shell getent passwd $$(id -u) | cut -d: -f6)
endif

# Outside a git checkout, in one without commits, or in one that belongs to
# another user, git has nothing to say and Go must not ask it.
ifneq ($(shell git rev-parse --verify --quiet HEAD 2>/dev/null),)
VERSION ?= $(shell git describe --tags --always --dirty)
COMMIT ?= $(shell git rev-parse HEAD)
else
export GOFLAGS := $(shell PATH='$(PATH)' go env GOFLAGS) -buildvcs=false
endif

# The race detector needs a C compiler; `make test` installs one, `make
# test-unit` does without where there is none.
RACE := $(if $(shell command -v $${CC:-gcc}),-race)
FUZZTIME ?= 10s
# Of `make test`: -update writes docs/engines.md anew, -v tells of tests that pass, too,
# -thorough is for before a release: it starts more containers.
MATRIX ?=

.PHONY: build
build: ## build the static binary bin/ambassadord
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w$(if $(VERSION), -X main.version=$(VERSION))$(if $(COMMIT), -X main.commit=$(COMMIT))' -o bin/ambassadord ./cmd/ambassadord

.PHONY: demo
demo: ## show it at work: two web containers, one client, one of them stopped (root)
	@scripts/demo

.PHONY: test
test: root setup check lint image ## every check and every test, on three engines, with real Docker, iptables, Redis, PostgreSQL, Consul, etcd and NSD (root)
	@echo '==> tests'
	@# All packages are compiled at once; the tests of most run one after the other.
	CGO_ENABLED=1 go list -race -tags integration -test -export ./... >/dev/null
	PATH="$$(scripts/setup path):$$PATH" go run ./internal/engines/matrix -all $(MATRIX)
	@# What a host of the matrix's own lets pass that the machine's does not.
	CGO_ENABLED=1 PATH="$$(scripts/setup path):$$PATH" go test -race -tags integration -count=1 -run '^TestHostileTenants$$/^name_server$$' ./e2e
	@# What the race detector would count wrong.
	go test -count=1 -run Allocations ./internal/route ./internal/mode/fixed ./internal/accesslog

.PHONY: engines
engines: root setup image ## the tests of docs/engines.md alone, on every engine; writes it (root)
	PATH="$$(scripts/setup path):$$PATH" go run ./internal/engines/matrix -update $(ENGINES)

.PHONY: test-unit
test-unit: ## the tests that need neither root nor Docker, in seconds
	@$(if $(RACE),,echo 'no C compiler: the race detector is off' >&2)
	$(if $(RACE),CGO_ENABLED=1) go test $(RACE) ./...

.PHONY: check
check: ## formatting, go.mod, vet
	@echo '==> checks'
	@unformatted=$$(gofmt -l $$(go list -tags integration -f '{{.Dir}}' ./...)); \
	  [[ -z $$unformatted ]] || { echo 'not formatted (make fmt does it):' $$unformatted >&2; exit 1; }
	go mod tidy -diff
	go mod verify
	go vet -tags integration ./...

.PHONY: lint
lint: ## golangci-lint, the version pinned in tools/lint
	@scripts/setup lint
	@echo '==> lint'
	"$$(scripts/setup path)"/golangci-lint run ./...

.PHONY: fmt
fmt: ## format the code as lint wants it
	@scripts/setup lint
	"$$(scripts/setup path)"/golangci-lint fmt ./...

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (10s) each
	@scripts/fuzz $(FUZZTIME)

.PHONY: bench
bench: ## measure beside HAProxy, nginx and others, write docs/performance.* (root; BENCH='-rounds 16 -host' for more)
	@scripts/setup bench
	@mkdir -p bin
	go build -o bin/peers ./bench/peers
	bin/peers -json docs/performance.json -docs docs $(BENCH)

.PHONY: drivers
drivers: root build ## what thirteen drivers notice of what happens to their backends and to the daemon, into docs/drivers.md (root; DRIVERS='-v -only pgx' for less)
	@scripts/setup drivers
	cd bench/drivers/node && npm install --no-package-lock --no-audit --no-fund
	cd bench/drivers && CGO_ENABLED=0 go build -o ../../bin/ . ./goworker
	bin/drivers $(if $(DRIVERS),$(DRIVERS),-update docs/drivers.md)

.PHONY: bench-short
bench-short: ## Go benchmarks of the working tree against the commit before it (BASE=... for another)
	@scripts/setup benchstat
	@PATH="$$(scripts/setup path):$$PATH" scripts/bench-short $(BASE)

.PHONY: bench-inside
bench-inside: root setup build ## measure from inside containers, and an idle daemon (root); BENCH_INSIDE='-rounds 10'
	go run ./bench/inside -daemon bin/ambassadord -json bin/bench-inside.json -markdown bin/bench-inside.md $(BENCH_INSIDE)
	go run ./bench/rules -daemon bin/ambassadord -markdown bin/bench-idle.md

.PHONY: image
image: build ## the container image ambassadord:local (BASE=... to choose its base)
	@VERSION='$(VERSION)' scripts/image

.PHONY: setup
setup: ## install what the tests need (root, where something is missing)
	@echo '==> setup'
	@scripts/setup all

.PHONY: root
root:
	@(( $$(id -u) == 0 )) || { echo 'this makes network namespaces and firewall rules, which needs root; make test-unit does without' >&2; exit 1; }

.PHONY: clean
clean: ## remove what was built here
	rm -rf bin

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# What one does here. `make help` lists it; docs/operations.md says more.
#
# Nothing below needs a registry other than Go's module proxy, and npm's for the TypeScript and the web app. Data, uploads
# and built tools lie in var/ and bin/, which git ignores.

SHELL := /bin/sh
.DEFAULT_GOAL := help

# A repository that git does not trust for this user cannot stamp binaries, and need not.
VCS := $(shell git rev-parse HEAD >/dev/null 2>&1 && echo true || echo false)
GO  := go
BUF := $(GO) tool -modfile=tools/buf/go.mod buf
GOLANGCI := $(GO) tool -modfile=tools/golangci/go.mod golangci-lint
WITHPG := $(GO) run ./internal/pgtest/withpg

# The packages without I/O, whose tests are quick enough to run once more under the race detector.
RACE := . ./access ./schema ./internal/expr ./syncengine

## Everyday

.PHONY: run
run: ## Start a development server with its own Postgres and the demo company, on :8080 (other: make run LISTEN=:9090)
	@sh scripts/need run
	@sh scripts/js web --try
	@$(GO) build -buildvcs=$(VCS) -o bin/satchel ./cmd/satchel
	@$(if $(LISTEN),SATCHEL_LISTEN='$(LISTEN)') exec bin/satchel serve --dev

.PHONY: demo
demo: ## Tell the story of three phones, each step checked, on a server and a Postgres of its own
	@sh scripts/need test-short
	@$(GO) build -buildvcs=$(VCS) -o bin/satchel ./cmd/satchel
	@exec bin/satchel demo

.PHONY: web
web: ## Build the web app that the binary carries, when something changed (needs Node; without it there is a page that says so)
	@sh scripts/js web

.PHONY: build
build: ## Build bin/satchel, with the web app where Node is there
	@sh scripts/need build
	@sh scripts/js web --try
	$(GO) build -trimpath -buildvcs=$(VCS) -o bin/satchel ./cmd/satchel

## Checks

.PHONY: test
test: ## Everything: generated code is fresh, lint, vet, all tests (installs what it needs)
	@sh scripts/need test
	@sh scripts/js web
	@checks=0; $(MAKE) --no-print-directory -k fresh lint || checks=1; \
		$(WITHPG) $(GO) run ./internal/testsum -timeout 45m ./... , -timeout 45m -race -short $(RACE) || checks=2; \
		case $$checks in 1) echo "the tests passed, but fresh or lint did not: see above"; exit 1;; 2) exit 1;; esac

.PHONY: test-short
test-short: ## The everyday part of the tests, in under 5 minutes
	@sh scripts/need test-short
	@sh scripts/js web
	$(GO) vet ./...
	$(WITHPG) $(GO) run ./internal/testsum -short -timeout 5m ./...

.PHONY: lint
lint: ## Lint the contract and the code: buf, gofmt, go vet, golangci-lint
	@sh scripts/need lint
	@sh scripts/proto lint
	@bad=$$($$($(GO) env GOROOT)/bin/gofmt -l $$(find . -name '*.go' -not -path './var/*' -not -path '*/node_modules/*')); \
		if [ -n "$$bad" ]; then echo "not formatted; run gofmt -w on:"; echo "$$bad"; exit 1; fi
	$(GO) vet ./...
	@for mod in tools/*/; do if ls $$mod*.go >/dev/null 2>&1; then echo "go vet ($$mod)"; (cd $$mod && $(GO) vet ./...) || exit 1; fi; done
	$(GOLANGCI) run

.PHONY: generate
generate: ## Write gen/ and clients/ts/src/gen/ anew from proto/
	@sh scripts/need generate
	@sh scripts/proto generate

.PHONY: fresh
fresh: ## Prove that they are what proto/ gives
	@sh scripts/need generate
	@sh scripts/proto fresh

FUZZTIME ?= 10m
.PHONY: fuzz
fuzz: ## Let the fuzzers look for trouble, one after the other, FUZZTIME=10m each (one of them: make fuzz ONLY=FuzzMerge)
	@sh scripts/need test-short
	@$(WITHPG) sh scripts/fuzz $(FUZZTIME) $(ONLY)

.PHONY: bench
bench: ## Measure sync beside the floor of the same Postgres, as JSON
	@sh scripts/need run
	@$(GO) run ./cmd/satchel-lab bench --json

## Other

.PHONY: clean
clean: ## Remove what was built; the development data in var/pg and var/blobs stay (make clean-data removes them)
	rm -rf bin var/bin var/proto web/dist/app clients/*/dist var/web.built

.PHONY: clean-data
clean-data: ## Remove the development server's data (stop it first)
	rm -rf var/pg var/blobs

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^## / { printf "\n%s\n", substr($$0, 4) } /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

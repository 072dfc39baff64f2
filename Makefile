# Every target makes by itself what it needs: a virtual environment in .venv and, as root with apt, missing programs.
MAKEFLAGS += --no-print-directory
SHELL := /bin/bash
# Where distributions keep dnsmasq, udhcpc and ip; an ordinary user's PATH often lacks it.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin
PYTHON ?=
export PYTHON
STATUS_FILE ?=
TESTS ?=

.DEFAULT_GOAL := help
.PHONY: help demo run test servers soak conformance lint clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' $(firstword $(MAKEFILE_LIST)) | expand -t 22

demo: ## the whole way of an address, from claim to DHCP client, on real parts; about half a minute
	@.ci/prepare python run
	@.ci/prepare programs ip sysctl nsenter dnsmasq udhcpc
	@.venv/bin/python -m tests.demo

run: ## both daemons in the foreground, with their logs, until Ctrl-C; the state stays in .run
	@.ci/prepare python run
	@.venv/bin/python -m tests.demo.run

test: ## lint and all tests (REQUIRE_ALL=1: a test that cannot run here fails; TESTS=tests/…: only these)
	@.ci/prepare python test
	@.ci/prepare programs ip sysctl nsenter unshare nft faketime dnsmasq dhcpd kea-dhcp4 kea-dhcp6 kea-admin udhcpc dhclient curl pg_createcluster
	@.ci/check all $(TESTS) || { status=$$?; [ -n "$(STATUS_FILE)" ] || exit $$status; }; \
	  [ -z "$(STATUS_FILE)" ] || echo $${status:-0} > "$(STATUS_FILE)"

servers: ## the tests with real DHCP servers, timed: as root in namespaces, and as an ordinary user in user namespaces
	@.ci/prepare python test
	@.ci/prepare programs ip sysctl nsenter unshare dnsmasq dhcpd kea-dhcp4 kea-dhcp6 kea-admin udhcpc dhclient
	@.venv/bin/python -m tests.lab.server_suite

soak: ## both daemons in memory under any fault, hostile peers; kill regionds, PostgreSQL and its backends under load; 10,000 slow clients (SECONDS=300 SEED=…: as long, and the same again)
	@.ci/prepare python test
	@.venv/bin/python -m tests.simulation --seconds $(or $(SECONDS),300) $(if $(SEED),--from-seed $(SEED))
	@.venv/bin/python -m tests.fuzz --inputs 100000 $(if $(SEED),--seed $(SEED))
	@.venv/bin/python -m tests.chaos --seconds $(or $(SECONDS),300) $(if $(SEED),--seed $(SEED))
	@SLOW_CONNECTIONS=10000 .venv/bin/python -m pytest tests/end_to_end/test_slow_connections.py

conformance: ## schemathesis: the API against its own OpenAPI document (EXAMPLES=20: so many for each route and caller)
	@.ci/prepare python test
	@EXAMPLES=$(or $(EXAMPLES),20) .venv/bin/python -m pytest tests/conformance

lint: ## ruff, mypy, import-linter
	@.ci/prepare python test
	@.ci/check lint

clean: ## remove .venv, the caches and what a build left; not .run, the state of `make run`
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .schemathesis
	find clusterd regiond tests twisted -name __pycache__ -prune -exec rm -rf {} +
	rm -f twisted/plugins/dropin.cache

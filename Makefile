# Every target sets up .venv first if it is missing or older than pyproject.toml and constraints.txt.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup run ci-smoke demo test check lint types imports format asyncapi result-schema scenario-schema constraints clean

help:            ## what can be made
	@grep -hE '^[a-z-]+: .*##|^[a-z-]+:  *##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Seatrial needs Python 3.11 or newer, found " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(STAMP)  ## create .venv and install everything, pinned

run: $(STAMP)    ## the smoke scenario: Postgres, server, fleet, load, verdict (about a minute)
	@$(BIN)/seatrial run scenarios/smoke.toml

ci-smoke: $(STAMP) ## the same for a CI: JUnit, Markdown and report.html in runs/ci/latest
	@$(BIN)/seatrial run scenarios/smoke.toml --runs runs/ci

demo: $(STAMP)   ## a server and a fleet of 200 agents to try by hand, until Ctrl-C
	@$(BIN)/seatrial demo

# Several at once, as most of them wait for something; whole runs after them, fewer at once: more would disturb each other.
test: $(STAMP)   ## the whole test suite
	$(BIN)/python -m pytest -n 6 --dist loadfile --ignore=tests/e2e
	$(BIN)/python -m pytest -n 4 --dist worksteal tests/e2e

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports

check: lint types imports test  ## ruff, mypy --strict, import rules, tests

format: $(STAMP) ## format, and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

asyncapi: $(STAMP)  ## write docs/asyncapi.json anew from the message types
	$(BIN)/python -m server.protocol.asyncapi > docs/asyncapi.json

result-schema: $(STAMP)  ## write docs/result.schema.json anew from the types of a result
	$(BIN)/python -m loadtests.result_file > docs/result.schema.json

scenario-schema: $(STAMP)  ## write docs/scenario.schema.json anew from the types of a scenario
	$(BIN)/python -m loadtests.scenario_schema > docs/scenario.schema.json

constraints:     ## pin what a fresh environment resolves to
	rm -rf .venv-pin && $(PYTHON) -m venv .venv-pin
	.venv-pin/bin/python -m pip install --quiet --disable-pip-version-check '.[dev]'
	.venv-pin/bin/python -m pip freeze --exclude seatrial > constraints.txt
	rm -rf .venv-pin

clean:           ## remove the environment and the runs
	rm -rf $(VENV) runs

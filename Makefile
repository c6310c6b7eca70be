# The front door. `make help` lists the targets; every target is one line over ops, pulumi or pytest.
STACK ?= dev
ENGINE ?= in-process
SCOPE ?= all
FROM ?= dev
TO ?= staging
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
ROUTER_STAMP := .venv-router/.installed

.DEFAULT_GOAL := help
.PHONY: help setup rehearse plan cost doctor test test-control-plane test-router check lint types schema schema-check golden up preview \
  stage wait smoke promote destroy bench clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

$(STAMP): requirements.txt requirements-simulation.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, this is %d.%d\n  help: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	@echo "making $(VENV) with the pinned packages: a minute or two"
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $(STAMP)

setup: $(STAMP) ## make the virtual environment with the pinned packages

rehearse: $(STAMP) ## build the whole STACK against a real control plane on this machine, no AWS account (STACK, ENGINE)
	$(PY) -m ops rehearse --stack $(STACK) --engine $(ENGINE)

plan: $(STAMP) ## what STACK will be: models, layouts, nodes, prices
	@$(PY) -m ops plan --stack $(STACK)

cost: $(STAMP) ## what STACK costs, line by line
	@$(PY) -m ops cost --stack $(STACK)

doctor: $(STAMP) ## are tools, credentials, region, quota and capacity there for STACK?
	$(PY) -m ops doctor --stack $(STACK)

test: $(STAMP) ## the tests that run anywhere (no control plane)
	$(PY) -m pytest -m "not control_plane and not router" tests

$(ROUTER_STAMP): requirements-router.txt
	@$(PYTHON) -m venv .venv-router
	@.venv-router/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-router.txt
	@touch $(ROUTER_STAMP)

test-router: $(STAMP) $(ROUTER_STAMP) ## the real router before simulated engines under load
	.venv-router/bin/python catalog/tools/router_flags.py --check
	ROUTER_REQUIRED=1 $(PY) -m pytest -m router tests/router

test-control-plane: $(STAMP) ## the tests on the real control plane
	$(PY) -m pytest -m control_plane tests

lint: $(STAMP) ## style of the code
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(STAMP) ## pyright, strict
	$(VENV)/bin/pyright

schema: $(STAMP) ## write settings/stack.schema.json and docs/reference from the models
	$(PY) -m settings.schema

schema-check: $(STAMP)
	$(PY) -m settings.schema --check

golden: $(STAMP) ## write the golden files anew; read the diff like a plan
	UPDATE_GOLDEN=1 $(PY) -m pytest -q tests -m "not control_plane" -k golden

check: lint types schema-check test test-router test-control-plane ## everything that CI runs
	for stack in dev staging prod local; do $(MAKE) rehearse STACK=$$stack || exit $$?; done

preview: $(STAMP) ## pulumi preview of STACK (SCOPE=models, SCOPE=images: those alone)
	$(PY) -m ops deploy --preview --stack $(STACK) --scope $(SCOPE)

up: $(STAMP) ## pulumi up of STACK (SCOPE=models, SCOPE=images: those alone)
	$(PY) -m ops deploy --stack $(STACK) --scope $(SCOPE)

destroy: $(STAMP) ## drain, then pulumi destroy of STACK, then what is left; asks first
	$(PY) -m ops drain --stack $(STACK)
	pulumi destroy --stack $(STACK)
	$(PY) -m ops leaks --stack $(STACK)

stage: $(STAMP) ## bring the weights of MODEL (all if none) to the bucket of STACK, resumable and checked
	$(PY) -m ops models stage --stack $(STACK) $(if $(MODEL),--model $(MODEL))

wait: $(STAMP) ## wait until the models of STACK serve, telling what each waits for
	$(PY) -m ops wait --stack $(STACK)

smoke: $(STAMP) ## one completion through each endpoint of STACK
	$(PY) -m ops smoke --stack $(STACK)

promote: $(STAMP) ## bring the commit of FROM to TO: same commit, compared, rehearsed, previewed, applied
	$(PY) -m ops promote --from $(FROM) --to $(TO)

bench: $(STAMP) ## measure planning, building and rehearsing; prints the machine
	$(PY) -m bench

clean: ## remove the virtual environment and caches of this checkout
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis

# Commands of inference-stack. `make` lists them.
STACK ?= dev
PYTHON ?= python3
SETUP = $(PYTHON) -m tools.setup
PY = .venv/bin/python
# Real deployments wait more than they compute: two processes share the tests, as tests/conftest.py says.
TWO = --numprocesses 2

.DEFAULT_GOAL := help
.PHONY: help up down clean preview plan facts drift policy exposure forget logs key dev parts check fix unit test test-all golden docs lock

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: ## run the stack on this machine (STACK=dev), and ask it a question
	@$(SETUP) up --stack $(STACK)

down: ## remove all that `up` made, except the model cache
	@$(SETUP) down --stack $(STACK)

clean: ## down, then remove the model cache, images and caches of ours
	@$(SETUP) clean --stack $(STACK)

preview: ## what would change, what restarts, and for how long
	@$(SETUP) preview --stack $(STACK)

plan: dev ## which models fit, for how many users (STACK=prod, or MODEL=config.json GPU="RTX 4090")
	$(PY) -m tools.fit $(if $(MODEL),--model $(MODEL) --gpu "$(GPU)",--stack $(STACK)) \
		$(if $(MEASURED),--measured $(MEASURED)) $(if $(JSON),--json)

models: dev ## the weights that hosts keep, and who needs them (STACK=prod HOST=name REMOVE=owner--name/commit)
	$(PY) -m tools.models --stack $(STACK) $(if $(HOST),--host $(HOST)) $(if $(REMOVE),--remove $(REMOVE))

facts: dev ## ask the stack's hosts over SSH what they are, and keep it under stack_configs/facts (STACK=prod HOST=name)
	$(PY) -m tools.facts --stack $(STACK) $(if $(HOST),--host $(HOST))

drift: dev ## compare hosts with the spec; what differs is repaired by the next `up` (STACK=prod)
	@. ./activate && $(PY) -m tools.drift --stack $(STACK) $(if $(HOST),--host $(HOST))

exposure: dev ## who listens on the hosts, and what answers outside (STACK=prod FROM=user@address, or FROM=here)
	$(PY) -m tools.exposure --stack $(STACK) $(if $(FROM),--from $(FROM))

policy: dev ## who may talk to whom in the mesh, and whether it is so (STACK=prod, TAKE_OVER=yes, REMOVE=yes)
	@. ./activate && $(PY) -m tools.policy --stack $(STACK) \
		$(if $(filter yes,$(TAKE_OVER)),--take-over) $(if $(filter yes,$(REMOVE)),--remove)

forget: ## let Pulumi forget a host that is dead (STACK=prod HOST=name); lists what goes, and asks
	@. ./activate && $(PY) -m tools.forget --stack $(STACK) --host "$(HOST)"

logs: ## how the services are; SERVICE=chat-0 for one's last lines
	@$(SETUP) logs --stack $(STACK) $(SERVICE)

key: ## print the API key (ID=me)
	@$(SETUP) key --stack $(STACK) $(ID)

dev: ## the development environment
	@$(SETUP) dev

parts: dev ## Docker, Pulumi and images, without running anything
	@$(SETUP) parts

check: dev ## formatting, lint, types; changes nothing
	$(PY) -m ruff format --check --quiet .
	$(PY) -m ruff check --quiet .
	$(PY) -m mypy
	.venv/bin/shellcheck --exclude SC1091,SC2016,SC2034,SC2329 activate .ci/run planning/hosts/scripts/*.sh # parts of scripts: called by other parts

fix: dev ## what `check` can repair by itself
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

unit: dev ## tests that need no Docker (under a minute)
	$(PY) -m pytest tests/unit tests/config_cases tests/golden tests/commands -m "not campaign"

test: check parts ## every test: unit, contract, and a real deployment
	$(PY) -m pytest tests -m "not campaign" $(TWO)

test-all: check parts ## test, and the campaigns that take long
	$(PY) -m pytest tests $(TWO)

golden: dev ## write tests/golden anew; review the diff
	$(PY) -m tests.golden.update

docs: dev ## write the JSON Schema and docs/reference anew
	$(PY) -m tools.docs_reference

lock: dev ## write requirements*.txt anew from pyproject.toml
	$(SETUP) lock

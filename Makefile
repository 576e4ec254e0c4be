# make demo   set everything up and train the demo character
# make test   set everything up and pass lint, types and tests
SHELL := /bin/bash
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup demo test lint type check quick docs versions screenshots clean

help: ## Show this list.
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

setup: ## Make .venv with the pinned packages (does nothing when it is there).
	@.requirements/setup.sh

demo: setup ## Train recipes/demo.yaml and show what changed.
	@$(BIN)/charforge train recipes/demo.yaml

lint: setup ## ruff, and its formatting.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup ## mypy --strict.
	$(BIN)/mypy

check: lint type ## Lint and types.

quick: setup ## The tests that run no model.
	$(BIN)/pytest -q -n 2 --dist loadgroup -m "not slow"

test: check ## Lint, types and all tests, with real models.
	$(BIN)/pytest -q -n 2 --dist loadgroup

docs: setup ## Write the generated pages: recipe reference and command line.
	$(BIN)/python docs/generate.py

versions: setup ## Train two versions and two seeds, and ask what compare finds (docs/experiments/versions).
	$(BIN)/python docs/experiments/versions/run.py

screenshots: setup ## Take the pictures of the docs (needs Chromium, and wren@1.1.0 in the store).
	$(BIN)/python docs/screenshots.py

clean: ## Remove .venv and caches. The store (.charforge) with your trained characters stays.
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

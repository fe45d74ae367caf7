# Everything here sets itself up: a Python 3.11 or newer and make are enough.
#   make train ARGS="optim.lr=3e-4"     options are passed on
#   make test PYTHON=python3.12         another interpreter (after make clean)

PYTHON ?= python3
JOBS ?= 2
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup train test test-all check docs clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

setup: $(INSTALLED)  ## install mmft and what its tests need into .venv

train: $(INSTALLED)  ## fine-tune the shipped sample (about two minutes on two cores)
	$(BIN)/mmft train $(ARGS)

test: $(INSTALLED)  ## the tests, 5 to 15 minutes on two cores
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-all: $(INSTALLED)  ## the big tables that `make test` leaves out, about 40 minutes
	$(BIN)/python -m pytest --all -m slow -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(INSTALLED)  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(INSTALLED)  ## build the documentation into site/
	$(BIN)/python tools/options_page.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:  ## remove .venv, .cache and site
	rm -rf $(VENV) .cache site

$(INSTALLED): pyproject.toml
	@sh tools/setup.sh "$(PYTHON)" $(VENV)
	@touch $@

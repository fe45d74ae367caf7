# Everything here sets itself up: a Python 3.11 or newer and make are enough.
#   make train ARGS="optim.lr=3e-4"     options are passed on
#   make test PYTHON=python3.12         another interpreter (after make clean)

PYTHON ?= python3
JOBS ?= 2
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SHAPES := .cache/shapes
SHAPES_MADE := $(SHAPES)/text_encoder/model.safetensors

.DEFAULT_GOAL := help
.PHONY: help setup train test test-all check clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

setup: $(INSTALLED)  ## install mmft and what its tests need into .venv

train: $(INSTALLED) $(SHAPES_MADE)  ## fine-tune on a small generated sample (a minute or two on two cores)
	$(BIN)/mmft train experiment=shapes $(ARGS)

test: $(INSTALLED)  ## the tests, at most 10 minutes on two cores
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

test-all: $(INSTALLED)  ## the big tables that `make test` leaves out, at most 40 minutes
	$(BIN)/python -m pytest --all -m slow -n $(JOBS) --dist loadfile $(ARGS)

check: $(INSTALLED)  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:  ## remove .venv and .cache
	rm -rf $(VENV) .cache

$(INSTALLED): pyproject.toml
	@sh tools/setup.sh "$(PYTHON)" $(VENV)
	@touch $@

# The last file that make_shapes.py writes, so that an interrupted sample is made anew.
$(SHAPES_MADE): tools/make_shapes.py tools/tiny_encoders.py tools/tiny_tokenizers.py | $(INSTALLED)
	@echo "mmft ships no sample yet: generating 240 small pictures with texts, and two small encoders, in $(SHAPES)"
	@$(BIN)/python tools/make_shapes.py $(SHAPES)
	@touch $@

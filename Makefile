# make train: from nothing to a model that recites; make test: the whole suite. Neither asks anything.
PYTHON ?= python3
BACKEND ?= cpu
BIN := .venv/bin
PAGES := $(addprefix mlx_shakegpt., \
	api model.gpt settings.config settings.sampling run training generation.decoding \
	verification.proof weights sharing.export)

ifeq ($(shell uname),Darwin)
GET_PYTHON := brew install python, or python.org
GET_VENV := brew install python, or python.org
else
GET_PYTHON := apt-get install python3
GET_VENV := apt-get install python3-venv
endif

# Of what pip says only which package it is at. bash, so that a failure of pip's is one of the pipe's.
SHELL := /bin/bash
PROGRESS := 's/^Collecting \([A-Za-z0-9._-]*\).*/  \1/p; s/^Installing collected.*/  unpacking all of them/p'

.PHONY: help setup train test test-fast lint check bench mutants docs clean

help:
	@echo "make train   install, train with this machine's defaults, and speak 'ROMEO:'"
	@echo "make test    install the test extras and run the whole suite"
	@echo "make test-fast  only the quick tests, in about a minute"
	@echo "make check   ruff, mypy and the suite"
	@echo "make bench   the tables of benchmarks/"
	@echo "make mutants whether the tests notice small faults in what proves and keeps (hours)"
	@echo "make docs    docs/commands.md, and pages from the docstrings in build/pages/"
	@echo "make setup   only install"
	@echo "make BACKEND=cuda setup   install for an NVIDIA GPU, in a fresh .venv"

setup: .venv/installed

train: .venv/installed
	$(BIN)/python cli.py train --resume
	$(BIN)/python cli.py generate "ROMEO:"

test: .venv/installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-fast: .venv/installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

check: lint test

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed-test
	$(BIN)/python benchmarks/training.py --rounds 1
	$(BIN)/python benchmarks/generation.py --rounds 1
	$(BIN)/python benchmarks/evaluation.py --rounds 1
	$(BIN)/python benchmarks/scaling.py --repeats 2

mutants: .venv/installed-test
	$(BIN)/python benchmarks/mutants.py

docs: .venv/installed-test
	$(BIN)/python docs/commands.py
	$(BIN)/pdoc $(PAGES) -o build/pages

clean:
	rm -rf .venv build *.egg-info

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Error: you need Python 3.11 or newer: $(GET_PYTHON); or name yours: make PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -m venv .venv \
		|| { rm -rf .venv; echo "Error: Python has no venv module: $(GET_VENV)"; exit 2; }

.venv/installed: pyproject.toml | .venv/bin/python
	@echo "Installing into .venv; this may take some minutes."
	@set -o pipefail; $(BIN)/python -m pip install --editable '.[$(BACKEND)]' | sed -n -e $(PROGRESS)
	@touch $@

.venv/installed-test: pyproject.toml | .venv/bin/python
	@set -o pipefail; $(BIN)/python -m pip install --editable '.[test,$(BACKEND)]' | sed -n -e $(PROGRESS)
	@touch $@ .venv/installed

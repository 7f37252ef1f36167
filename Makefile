# `make` lists what there is to make. Every target makes the environment it needs and does no work twice.
PYTHON ?= python3
JOBS ?= 2
PORT ?= 8000
COLAB_PYTHON ?= newest

PY := .venv/bin/python
BOOK := .venv/bin/imcl-book
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
PAGES := _config.yml _toc.yml index.md $(shell find book results benchmarks -type f -not -name '*.pyc' 2>/dev/null)
SITE := _build/html

# One thread a process: the processes fill the cores, and sums round alike in every run.
export OMP_NUM_THREADS := 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup others book test colab site serve pdf clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' Makefile

setup: .venv/.installed ## make .venv with the tested versions and this package

.venv/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "This project needs Python 3.11 or newer: name one, as in 'make $(or $(MAKECMDGOALS),setup) PYTHON=python3.11'." >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv || { \
	  echo "No virtual environment could be made: install Python's venv module (Debian, Ubuntu: apt install python3-venv)." >&2; exit 1; }
	@echo "Installing the tested versions into .venv: a few minutes the first time."
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

others: .venv/.others ## also install Ray, timm, Lightning and Accelerate, which some tests need

.venv/.others: .venv/.installed requirements-others.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-others.txt
	@touch $@

book: setup ## run the chapters and build the book from what they computed
	@$(BOOK) execute --jobs $(JOBS) --cache .cache/notebooks.json --record book/executions.json $(NOTEBOOKS)
	@$(MAKE) --no-print-directory site

site: setup ## build the book from the notebooks as they are
	@$(MAKE) --no-print-directory $(SITE)/.built
	@$(PY) -c 'import pathlib; print("The book:", pathlib.Path("$(SITE)/index.html").resolve().as_uri())'

$(SITE)/.built: $(NOTEBOOKS) $(PAGES) $(shell find imcl_core -type f -not -name '*.pyc')
	@$(BOOK) check --record book/executions.json $(NOTEBOOKS)
	@rm -rf _build
	.venv/bin/jupyter-book build . -W -n --keep-going --all
	@touch $@

test: setup ## prove it right: style, tests, notebooks, the book without a warning
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pytest -n $(JOBS) --dist loadfile
	$(PY) -m pytest -n $(JOBS) --dist loadscope --nbval-lax --nbval-current-env notebooks
	@$(MAKE) --no-print-directory site

colab: setup ## run every notebook as Colab would, with its packages (ONLY="[results] or [run]": those)
	IMCL_COLAB=$(COLAB_PYTHON) $(PY) -m pytest -n $(JOBS) tests/book/test_colab.py -k "$(or $(ONLY),on_colab or what_is_missing)"

serve: ## serve the built book on this machine and open it (PORT=8000)
	@test -e $(SITE)/index.html || { echo "There is no book yet: run 'make book' first." >&2; exit 1; }
	@$(BOOK) serve $(SITE) --port $(PORT)

pdf: site ## print the book to one PDF, linked on its first page (needs Chromium)
	@$(BOOK) pdf $(SITE)

clean: ## remove what was made, but for .venv
	rm -rf _build .cache .pytest_cache .ruff_cache .hypothesis

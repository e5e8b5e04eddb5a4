# Everything there is to run; `make` alone lists it. Each target builds what it needs in .venv, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -q
# torch comes first and by its exact version, so that no package that asks for "any torch" chooses another build.
TORCH := $(shell grep '^torch==' constraints.txt)
TORCHVISION := $(shell grep '^torchvision==' constraints.txt)
# One thread a process: two test processes share the cores instead of fighting over them, and sums keep one order.
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
# The parts of all tests, each of which takes some minutes; tests/choice.py says what is in them.
PARTS := forgetting-1 forgetting-2 forgetting-3 resume-1 resume-2 resume-3 baking-1 baking-2 units-1 units-2 activation-1 activation-2 models-1 models-2 compile-1 compile-2 verbs contract methods learning removal-1 removal-2 rest-1 rest-2 rest-3

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: demo test test-all mutants lint bench fidelity docs help

demo: $(STAMPS)/base  ## see it work: tasks learned one after the other by one network, none forgotten
	$(BIN)/polymask demo

test: $(STAMPS)/dev  ## run the tests and every docstring example, except those marked full
	$(TEST) -m "not full" --untyped

test-all: $(PARTS:%=test-all-%)  ## run every test, those marked full as well, part after part

test-all-%: $(STAMPS)/dev  ## run one part of them alone, e.g. test-all-units-1; the parts are in tests/choice.py
	$(TEST) --part $* $(if $(findstring compile,$*),--untyped)

mutants: $(STAMPS)/mutants  ## change the code in small ways and list what no test notices; takes hours, goes on where it stopped
	OMP_NUM_THREADS=1 $(BIN)/mutmut run --max-children 2
	$(BIN)/mutmut results

lint: $(STAMPS)/dev  ## check style (ruff), formatting (ruff format) and types (mypy --strict)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src

bench: $(STAMPS)/dev  ## run each script in benchmarks/
	@set -e; ran=0; for script in benchmarks/[!_]*.py; do \
	  [ -e "$$script" ] || continue; ran=1; \
	  echo "== $$script"; $(BIN)/python "$$script"; \
	done; [ $$ran = 1 ] || echo "No benchmark yet: benchmarks/ holds no script."

fidelity: $(STAMPS)/dev  ## print every published number beside ours, with the command that measures it
	@$(BIN)/python benchmarks/fidelity/_table.py

docs: $(STAMPS)/docs  ## make the site, with the reference from the docstrings: docs/site/index.html
	rm -rf docs/site
	$(BIN)/python docs/method_pages.py
	$(BIN)/python -m sphinx -q -W --keep-going docs docs/site

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMPS)/venv:
	$(PYTHON) -m venv $(VENV)
	mkdir -p $(STAMPS)
	touch $@

$(STAMPS)/base: $(STAMPS)/venv pyproject.toml constraints.txt
	$(PIP) $(TORCH)
	$(PIP) -c constraints.txt -e .
	touch $@

$(STAMPS)/dev: $(STAMPS)/base
	$(PIP) -c constraints.txt -e '.[dev,text,onnx]'
	$(PIP) --no-deps $(TORCHVISION)
	$(PIP) -c constraints.txt timm
	touch $@

$(STAMPS)/docs: $(STAMPS)/base
	$(PIP) -c constraints.txt -e '.[docs]'
	touch $@

$(STAMPS)/mutants: $(STAMPS)/dev
	$(PIP) -c constraints.txt -e '.[mutants]'
	touch $@

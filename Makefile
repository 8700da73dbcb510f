# Every target does its own set-up, in .venv, and needs nothing but Python 3.11 or newer.
#   make demo    the whole story on a real model
#   make setup   .venv alone: every other target does it first
#   make test    the tests, in two processes (WORKERS=4: 3 GB each); TEST="tests/surgery -x" for a part
#   make check   lint, format, types, import directions, line budget
#   make benchmark-report   docs/benchmarks.md, from the curves under benchmarks/results/speedup
#   make counterparts   docs/counterparts.md: Olive, Optimum and sentence-transformers, in an environment of their own
#   make zoo     the compatibility matrix, docs/compatibility.md; hours, resumable; ZOO="llama-* --quick" for a part
#   make docs    the documentation as a site: build/site/index.html
#   make format  write what `make check` would ask for
#   make clean   remove .venv and what the tools cache

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo test check counterparts benchmark-report zoo docs format setup clean

PYTHON ?= python3
BIN := .venv/bin
HARDWARE := $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
OTHER := $(if $(filter gpu,$(HARDWARE)),cpu,gpu)
READY := .venv/ready-$(HARDWARE)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
# onnxruntime-genai brings onnxruntime, which onnxruntime-gpu does not bear
TOOLS := $(if $(filter cpu,$(HARDWARE)),genai,data)
TEST ?=
WORKERS ?= 2
DEMO ?=
ZOO ?=

demo: $(READY)
	$(BIN)/python -m graphclone demo $(DEMO)

test: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(TEST)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict benchmarks graphclone models tools
	$(BIN)/lint-imports
	$(BIN)/python tools/line_budget.py

benchmark-report: $(READY)
	$(BIN)/python -m benchmarks.speedup --report

zoo: $(READY)
	$(PIP) -c constraints/$(HARDWARE).txt -e '.[$(HARDWARE),zoo]'
	$(BIN)/python -m tools.zoo $(ZOO)

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Olive, Optimum and sentence-transformers, in an environment of their own: they want other versions of transformers and
# pydantic than .venv has. onnxruntime-genai, whose builder wants .venv's, is tried by make test.
COUNTERPARTS := .venv-counterparts
counterparts: $(COUNTERPARTS)/ready
	COUNTERPARTS=all $(COUNTERPARTS)/bin/python -m pytest tests/counterparts --ignore=tests/counterparts/test_genai.py $(TEST)

$(COUNTERPARTS)/ready: pyproject.toml constraints/counterparts.txt constraints/parents.txt
	@echo "setting up $(COUNTERPARTS): a few minutes, mostly PyTorch" >&2
	[[ -x $(COUNTERPARTS)/bin/python ]] || $(PYTHON) -m venv $(COUNTERPARTS)
	$(COUNTERPARTS)/bin/python -m pip install --quiet --disable-pip-version-check --no-input -c constraints/counterparts.txt -e '.[cpu,counterparts]'
	$(COUNTERPARTS)/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps -r constraints/parents.txt
	touch $@

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(READY)

# ready-cpu or ready-gpu, so that a driver that appears later brings its own set-up, in a new environment: onnxruntime
# and onnxruntime-gpu install the same module, and leftovers of one break the other.
$(READY): pyproject.toml constraints/$(HARDWARE).txt constraints/parents.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "graphclone needs Python 3.11 or newer, not %d.%d: make PYTHON=python3.11" % sys.version_info[:2])'
	@echo "setting up .venv ($(HARDWARE)): a few minutes, mostly PyTorch" >&2
	[[ -x $(BIN)/python && ! -e .venv/ready-$(OTHER) ]] || $(PYTHON) -m venv --clear .venv
	$(PIP) -c constraints/$(HARDWARE).txt -e '.[$(HARDWARE),$(TOOLS),dev]'
	$(PIP) --no-deps -r constraints/parents.txt
	touch $@

clean:
	rm -rf .venv $(COUNTERPARTS) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build *.egg-info

# `make demo` and `make test` work on a fresh clone: they set up $(VENV) first.
# With PYTHON=/path/to/python an interpreter that already has the dependencies is used, and nothing is installed.
VENV ?= .venv
SYSTEM_PYTHON ?= python3

# `make check-lowest` has an environment of its own, with the lowest versions that pyproject.toml allows.
LOWEST ?= .venv-lowest
PYTHON310 ?= python3.10

ifdef PYTHON
READY :=
else
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready
endif

ATTACKS := runs/cifar10_attacks
SURROGATE = --config clip_cifar10.yaml --data.root=$(DATA) \
	--ckpt_path $(ATTACKS)/twin-recipe-d11-t11/version_0/checkpoints/last.ckpt

SOURCE := lightning_modules datamodules callbacks experiments tests docs/site

.DEFAULT_GOAL := help
.PHONY: help setup demo attacks protect test test-slow lint docs bench check check-lowest clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Install the project and its tools into $(VENV)

$(VENV)/.ready: pyproject.toml
	$(SYSTEM_PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(READY) ## See CLIP fall to two attacks and SafeCLIP hold, on a CPU in minutes
	$(PYTHON) -m experiments.demo

attacks: DATA ?= data/cifar10
attacks: $(READY) ## Measure every attack on CIFAR-10 in DATA=data/cifar10, hours (docs/attack_results.md)
	$(PYTHON) -m experiments.grid experiments/grids/cifar10_attacks.yaml --jobs 2 --data.root=$(DATA)
	$(PYTHON) -m experiments.cli optimize_patch $(SURROGATE) --target airplane --size 8 --position random --steps 600 \
		--file $(ATTACKS)/airplane.png
	$(PYTHON) -m experiments.cli rank_images $(SURROGATE) --target truck --file $(ATTACKS)/truck.csv
	$(PYTHON) -m experiments.grid experiments/grids/cifar10_adaptive.yaml --jobs 2 --data.root=$(DATA)

protect: $(READY) ## Protect the photos in DATA=folder from being learned, into OUT=folder (docs/unlearnable.md)
	$(if $(and $(DATA),$(OUT)),,$(error Name two folders: make protect DATA=photos OUT=protected))
	$(PYTHON) -m experiments.protect_photos --photos='$(DATA)' --out='$(OUT)' $(OPTIONS)

test: $(READY) ## Run the fast tests
	$(PYTHON) -m pytest --numprocesses 2 --dist loadfile

test-slow: $(READY) ## Run the tests that train for minutes
	$(PYTHON) -m pytest -m slow

lint: $(READY) ## Check style, imports, docstrings and types
	$(PYTHON) -m ruff check $(SOURCE)
	$(PYTHON) -m ruff format --check $(SOURCE)
	$(PYTHON) -m mypy $(MYPY_OPTIONS)

docs: $(READY) ## Build the documentation as a site in site/, without the network
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet

bench: $(READY) ## Measure what a defense costs: seconds of an epoch's parts
	$(PYTHON) -m experiments.bench

check: lint test ## All that a change must pass

$(LOWEST)/.ready: pyproject.toml tests/lowest_versions.py
	$(PYTHON310) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --no-deps --editable .
	$(LOWEST)/bin/python tests/lowest_versions.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/constraints.txt --editable '.[dev,wordnet]'
	@touch $@

# The releases of numpy that run on Python 3.10 have no default for the type parameters of a bare `np.ndarray`, and
# torch 2.11 no types for `Function.apply`.
check-lowest: $(LOWEST)/.ready ## Run check with Python 3.10 and the lowest versions in pyproject.toml
	$(MAKE) check PYTHON=$(LOWEST)/bin/python MYPY_OPTIONS='--allow-any-generics --allow-untyped-calls'

clean: ## Remove runs and caches, but not the environment
	rm -rf runs cache site .pytest_cache .mypy_cache .ruff_cache build *.egg-info

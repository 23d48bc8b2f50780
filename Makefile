# Reference reproduction of "Deep Residual Learning for Image Recognition". `make` alone lists what there is.
#
# Every target sets up what it needs first: a virtual environment in .venv with this package in it.
# Settings: PYTHON= VENV= PIP_ARGS= for the set-up; PRESET= SEEDS= DATA= ARGS= for experiments.

PYTHON   ?= python3
VENV     ?= .venv
PIP_ARGS ?=
PRESET   ?= auto
SEEDS    ?= 1
ARGS     ?=
DATA     ?=
TESTS    ?=

COMPUTING := tests/test_models.py tests/data tests/evaluation tests/training tests/test_weights.py

REPRO := $(VENV)/bin/repro
DATA_OVERRIDE := $(if $(DATA),'data.root=$(subst ','\'',$(DATA))')
SEEDS_ASKED := $(if $(filter command environment,$(firstword $(origin SEEDS))),seeds=$(SEEDS))

.DEFAULT_GOAL := help
.PHONY: help setup demo cifar-plain-vs-res cifar-very-deep responses imagenet-plain-vs-res imagenet-options
.PHONY: imagenet-deeper imagenet-wiring pending data tables figures claims report status bench gpu-check
.PHONY: check test test-all test-oldest torture lint clean

help: ## list the targets
	@echo 'Deep Residual Learning for Image Recognition, reproduced. Targets:'
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | \
	  while IFS='|' read -r target text; do printf '%-28s %s\n' "$$target" "$$text"; done
	@echo
	@echo 'Settings: PRESET=auto|paper|short  SEEDS=1  DATA=folder  ARGS="key=value ..."  PYTHON=python3'
	@echo 'Each recipe is one `repro` command; $(VENV)/bin/repro --help lists them all.'

setup: $(VENV)/.ready ## make the virtual environment and install this package

demo: $(VENV)/.ready ## the whole chain on synthetic images in about 5 minutes; no network, no data set, no GPU
	$(REPRO) suite demo $(ARGS)
	$(REPRO) report

cifar-plain-vs-res: $(VENV)/.ready ## the central experiment: plain against residual nets, Table 6 and Figures 1, 6
	$(REPRO) suite cifar_plain_vs_res preset=$(PRESET) seeds=$(SEEDS) $(DATA_OVERRIDE) $(ARGS)

cifar-very-deep: $(VENV)/.ready ## ResNet-110 (5 seeds) and ResNet-1202; needs a GPU
	$(REPRO) suite cifar_very_deep preset=$(PRESET) $(SEEDS_ASKED) $(DATA_OVERRIDE) $(ARGS)

responses: $(VENV)/.ready ## the strength of the layers' responses: Figure 7, and gradient norms
	$(REPRO) suite cifar_responses preset=$(PRESET) seeds=$(SEEDS) $(DATA_OVERRIDE) $(ARGS)

imagenet-plain-vs-res: $(VENV)/.ready ## plain and residual nets of 18 and 34 layers on ImageNet: Table 2, Figure 4; DATA= its folder
	$(REPRO) suite imagenet_plain_vs_res preset=$(PRESET) $(SEEDS_ASKED) $(DATA_OVERRIDE) $(ARGS)

imagenet-options: $(VENV)/.ready ## shortcut options A, B, C on ImageNet: Tables 3, 4
	$(REPRO) suite imagenet_options preset=$(PRESET) $(SEEDS_ASKED) $(DATA_OVERRIDE) $(ARGS)

imagenet-deeper: $(VENV)/.ready ## 50, 101 and 152 layers on ImageNet and the ensemble: Tables 3, 4, 5
	$(REPRO) suite imagenet_deeper preset=$(PRESET) $(SEEDS_ASKED) $(DATA_OVERRIDE) $(ARGS)

imagenet-wiring: $(VENV)/.ready ## ResNet-34 learns a small folder of images by heart: DATA= it; minutes on a CPU, no result
	$(REPRO) run experiment=imagenet_optB machine=smoke $(DATA_OVERRIDE) $(ARGS)

pending: $(VENV)/.ready ## advance the full-length runs that results/reference lacks, cheapest first; stop it when you like
	$(REPRO) suite pending $(DATA_OVERRIDE) $(ARGS)

data: $(VENV)/.ready ## fetch and verify CIFAR-10 (170 MB)
	$(REPRO) data fetch cifar10 $(DATA_OVERRIDE)

tables: $(VENV)/.ready ## write all tables from the runs that are there
	$(REPRO) table all

figures: $(VENV)/.ready ## draw all figures from the runs that are there
	$(REPRO) figure all

claims: $(VENV)/.ready ## do the paper's statements hold in the runs that are there?
	$(REPRO) claims

report: $(VENV)/.ready ## one HTML page with tables, figures, claims and a card for each run
	$(REPRO) report

status: $(VENV)/.ready ## what is there, what runs now, what is left
	$(REPRO) status

bench: $(VENV)/.ready ## training speed against usual loops and the device's floors; ARGS=--quick for a minute
	$(REPRO) bench $(ARGS)

gpu-check: $(VENV)/.ready-dev ## does this GPU work, is it right, how fast is it? tests and a bench in 4 minutes
	PYTHON=$(VENV)/bin/python OUT=results/gpu-check bash tools/borrowed_gpu/check.sh 240 $(ARGS)

check: $(VENV)/.ready ## can runs start here, and is what is computed right? committed tables too; a minute on a CPU
	$(REPRO) check $(DATA_OVERRIDE) $(ARGS)

test: $(VENV)/.ready-dev ## run the test suite
	$(VENV)/bin/python -m pytest -n auto -m "not slow" $(TESTS)

test-all: test ## also what takes long (SLURM, kills, the wheel), and all that computes with the oldest torch
	$(VENV)/bin/python -m pytest -n auto -m slow
	$(MAKE) test-oldest

test-oldest: ## run the tests of all that computes with the oldest supported torch (2.11) and torchvision (0.26)
	$(MAKE) test VENV=.venv-oldest PIP_ARGS="torch==2.11.0 torchvision==0.26.0" TESTS="$(COMPUTING)"

torture: $(VENV)/.ready-dev ## kill runs 100 times and compare their ends with those of runs left alone; some minutes
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m tests.torture $(ARGS)

lint: $(VENV)/.ready-dev ## ruff and mypy
	$(VENV)/bin/ruff check --no-cache .
	$(VENV)/bin/mypy

clean: ## remove caches and builds; never data, results or the environment
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find repro tests -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo 'make: Python 3.11 or newer is needed; name one with PYTHON=python3.12'; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo 'make: this Python has no venv; on Debian or Ubuntu: apt install python3-venv'; exit 2; }
	@echo 'Making a virtual environment in $(VENV)'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: $(VENV)/bin/pip pyproject.toml
	@echo 'Installing repro, torch and torchvision into $(VENV) (once; some minutes, about 5.5 GB with CUDA packages)'
	@$(VENV)/bin/python -m pip install --quiet $(PIP_ARGS) -e .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready constraints.txt
	@echo 'Installing the test tools into $(VENV)'
	@$(VENV)/bin/python -m pip install --quiet $(PIP_ARGS) -e '.[dev]'
	@touch $@

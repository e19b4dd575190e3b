# Everything runs in .venv, which the first target that needs it makes. `make help` lists the targets.
BACKBONE ?= resnet18.tv_in1k
IMAGE_SIZE ?= 64
DATA ?= FashionMNIST
DATA_DIR ?= $(or $(FASHION_TL_DATA_DIR),data)
ARGS ?=
PYTHON ?= python3
PORT ?= 6006

UV_VERSION := 0.13.9
AUDIT_VERSION := 2.10.1
BIN := .venv/bin
STAMP := .venv/.installed
FIT := $(BIN)/fashion-tl fit
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
DATA_FLAGS := --data.source $(DATA) $(if $(filter FashionMNIST ImageFolder CSV TorchVision HuggingFace WebDataset,$(DATA)),--data.source.root '$(DATA_DIR)')
SEED_FLAGS = $(if $(SEEDS),--seeds $(SEEDS))
TRANSFER := $(DATA_FLAGS) --data.image_size $(IMAGE_SIZE) --model.backbone '$(BACKBONE)'

.DEFAULT_GOAL := help
.PHONY: help setup phase1 phase2 two_phase scratch study studies recipe recipes compare runs tensorboard demo test test-all coverage test-fast test-versions test-lowest fuzz soak bench bench-peers mutation licences audit check docs docs-serve docs-check clean

help: ## list the targets and variables
	@grep -hE '^[a-z0-9_-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14
	@echo
	@echo "variables: BACKBONE=$(BACKBONE) IMAGE_SIZE=$(IMAGE_SIZE) DATA=$(DATA) DATA_DIR=$(DATA_DIR)"
	@echo "           ARGS='more command-line flags', such as ARGS='--trainer.max_epochs 2 --seed_everything 1'"
	@echo "           SOLVE=1 (phase1: solve the head instead of training it)"
	@echo "           SEEDS=3 (several runs, one seed after the other) PROCESSES=2 (studies, recipes: two at a time)"
	@echo "           QUICK=1 STUDY=name RECIPE=name WEIGHTS=folder of folders with weights (studies, recipes)"

setup: $(STAMP) ## make .venv with pinned versions (every other target does it when needed)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@touch $@

phase1: $(STAMP) ## train the head on the frozen backbone, test, record
	$(if $(SOLVE),$(BIN)/fashion-tl probe --name phase1,$(FIT)) -c experiments/phase1.yaml $(TRANSFER) $(SEED_FLAGS) $(ARGS)

phase2: $(STAMP) ## go on from phase 1's best checkpoint, unfreeze the backbone's top, test, record
	$(FIT) -c experiments/phase2.yaml $(TRANSFER) $(SEED_FLAGS) $(ARGS)

two_phase: $(STAMP) ## both phases in one run with a schedule
	$(FIT) -c experiments/two_phase.yaml $(TRANSFER) $(SEED_FLAGS) $(ARGS)

scratch: $(STAMP) ## train the scratch CNN, test, record
	$(FIT) -c experiments/scratch.yaml $(DATA_FLAGS) $(SEED_FLAGS) $(ARGS)

EXPERIMENTS = $(BIN)/python experiments/run.py $(1) --root '$(DATA_DIR)' $(if $(QUICK),--quick) $(SEED_FLAGS) \
  $(if $(PROCESSES),--processes $(PROCESSES)) $(if $(WEIGHTS),--weights '$(WEIGHTS)') \
  $(if $(filter-out file default,$(origin BACKBONE)),--backbone '$(BACKBONE)')

studies: $(STAMP) ## run every system of the studies that is not done yet (QUICK=1: a small part of each)
	$(call EXPERIMENTS,studies) $(ARGS)

study: $(STAMP) ## run one of them: make study STUDY=light_cnn
	$(call EXPERIMENTS,studies) $(if $(STUDY),--only '$(STUDY)') $(ARGS)

recipes: $(STAMP) ## run the best known ways of training (docs/recipes.md) that are not done yet (GPU=1: those for a GPU)
	$(call EXPERIMENTS,best$(if $(GPU),/gpu)) $(ARGS)

recipe: $(STAMP) ## run one of them: make recipe RECIPE=scratch SEEDS=3
	$(call EXPERIMENTS,best) $(if $(RECIPE),--only '$(RECIPE)') $(ARGS)

compare: $(STAMP) ## one report over the newest completed run of each name: reports/index.html
	$(BIN)/fashion-tl compare $(ARGS)

runs: $(STAMP) ## list the recorded runs
	$(BIN)/fashion-tl runs

tensorboard: $(STAMP) ## serve the logs on this machine
	$(BIN)/tensorboard --logdir lightning_logs --host 127.0.0.1 --port $(PORT)

demo: $(STAMP) ## the whole story offline: pretrain, two phases, scratch, table
	$(BIN)/python experiments/demo/run.py

test: $(STAMP) ## run the tests: of each kind that takes long a sample
	$(PYTEST) --sample $(ARGS)

test-all: $(STAMP) ## run all of them
	$(PYTEST) $(ARGS)

coverage: $(STAMP) ## run the tests and measure which lines they reach; at least 95 %
	$(PYTEST) --cov --cov-report=term --cov-fail-under=95 $(ARGS)

test-fast: $(STAMP) ## run the tests that take less than about a second each
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal -m 'not slow and not thorough' $(ARGS)

test-versions: $(STAMP) ## the wheel with the newest dependencies on each Python that is at hand: PYTHONS='3.12 3.14'
	$(BIN)/python -m tests.versions $(PYTHONS)

test-lowest: .venv-lowest/.installed ## run the fast tests with the oldest dependencies that pyproject.toml allows
	.venv-lowest/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal -m 'not slow and not thorough' \
		--override-ini filterwarnings= --ignore tests/test_licences.py $(ARGS)

.venv-lowest/.installed: pyproject.toml $(STAMP)
	$(BIN)/uv venv --quiet --clear --python 3.11 .venv-lowest
	$(BIN)/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct --editable '.[dev]'
	@touch $@

fuzz: $(STAMP) ## look for configurations, plans and bytes that break a property: make fuzz MINUTES=10
	$(BIN)/python -m tests.fuzz $(or $(MINUTES),10)

soak: $(STAMP) ## kill runs, damage files and fill disks for MINUTES=30 from SEED=0; write docs/reliability.md
	OMP_NUM_THREADS=1 FASHION_TL_DATA_DIR='$(DATA_DIR)' $(BIN)/python -m tests.soak --minutes $(or $(MINUTES),30) --seed $(or $(SEED),0) $(ARGS)

bench: $(STAMP) ## time both sides of every pair in turn, write benchmarks/results.md (bench-peers first)
	FASHION_TL_DATA_DIR='$(DATA_DIR)' $(BIN)/python -m benchmarks.run $(ARGS)

bench-peers: benchmarks/.venv-fastai/.installed benchmarks/.venv-fts/.installed ## make the environments of the peers

benchmarks/.venv-%/.installed: benchmarks/%.txt constraints.txt $(STAMP)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python benchmarks/.venv-$*
	$(BIN)/uv pip install --quiet --python benchmarks/.venv-$*/bin/python --constraint constraints.txt --requirement $<
	@touch $@

mutation: $(STAMP) ## break safety checks of the source one by one and see whether the tests notice; write docs/reliability.md
	$(BIN)/python -m tests.mutation $(ARGS)

licences: $(STAMP) ## list the licence of every dependency: docs/licences.md
	$(BIN)/python -m tests.licences

audit: $(STAMP) ## ask PyPI for known vulnerabilities of the pinned versions; needs a network
	$(BIN)/uv tool run pip-audit@$(AUDIT_VERSION) --strict --disable-pip --no-deps --requirement constraints.txt

check: $(STAMP) ## lint and check types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

DOCS := .venv-docs/bin/python -m mkdocs
export NO_MKDOCS_2_WARNING := 1

docs: .venv-docs/.installed ## build the documentation: build/site; no broken link, no missing reference
	$(DOCS) build --quiet

docs-serve: .venv-docs/.installed ## show the documentation on this machine while its pages are edited
	$(DOCS) serve --dev-addr 127.0.0.1:$(or $(DOCS_PORT),8000)

docs-check: $(STAMP) ## run the commands of README and documentation in a fresh clone: ARGS='--only README.md'
	$(BIN)/python -m website.check $(ARGS)

.venv-docs/.installed: constraints-docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	.venv-docs/bin/uv pip install --quiet --python .venv-docs/bin/python --requirement constraints-docs.txt
	@touch $@

clean: ## remove caches and the environment; never runs
	rm -rf .venv .venv-docs .venv-lowest build .pytest_cache .mypy_cache .ruff_cache .coverage
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

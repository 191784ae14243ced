# Everything a newcomer types. `make demo` and `make test` set up what they need by themselves.
SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LM_EVAL := .venv-lm-eval

.PHONY: help setup demo serve-demo test test-fast lint docs bench bench-serve bench-eval nano clean apt

help: ## these lines
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: $(READY) ## a virtual environment with everything pinned by constraints.txt

$(READY): pyproject.toml constraints.txt infra/setup.sh
	@bash infra/setup.sh $(VENV)
	@touch $@

demo: $(READY) ## the main sweep on the embedded models, its table, report and MLflow
	@$(BIN)/earnest sweep jobs/configs/demo.toml

serve-demo: $(READY) ## the steered ensemble of the embedded models behind OpenAI's API; prints its address and a key
	@$(BIN)/python -m serve.app serve/configs/nano.toml $(if $(PORT),--port $(PORT))

test: $(READY) apt ## every test
	@$(BIN)/python -m pytest tests

test-fast: $(READY) ## the tests that take seconds
	@$(BIN)/python -m pytest tests -m "not slow" -x

apt:
	@bash infra/apt.sh

lint: $(READY) ## format, rules, types, the layers of imports, links of the documentation
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(MAKE) -s docs

docs: $(READY) ## the documentation as a site in .site; a dead link fails
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build -q

bench: $(READY) ## seconds of the demo's parts
	@$(BIN)/python benchmarks/parts.py $(if $(JSON),--json $(JSON))

bench-serve: $(READY) ## tokens per second of proxy-tuned decoding, and what serving adds
	@$(BIN)/python benchmarks/proxy_decode.py $(if $(JSON),--json $(JSON))

bench-eval: $(READY) $(LM_EVAL)/.ready ## seconds of evaluations against lm-eval's, same questions and answers
	@$(BIN)/python benchmarks/evaluation.py $(if $(JSON),--json $(JSON))

$(LM_EVAL)/.ready: infra/lm_eval.sh infra/lm_eval.txt | $(READY)
	@PYTHON=$(BIN)/python bash infra/lm_eval.sh $(LM_EVAL)
	@touch $@

nano: $(READY) ## train the embedded models again (under an hour on two cores)
	@$(BIN)/python jobs/train_nano.py jobs/configs/nano.toml --out nano

clean: ## remove what was built and what the demo stored
	rm -rf $(VENV) $(LM_EVAL) store .site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

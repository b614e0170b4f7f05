# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check docs bench clean

demo: $(VENV)/.installed  ## find, verify and export a circuit of the shipped model
	rm -rf runs/demo
	$(BIN)/python scripts/train_mask.py configs/ioi.yaml output_dir=runs/demo

test: $(VENV)/.installed-dev  ## the whole test suite
	$(BIN)/python -m pytest -n 2

check: $(VENV)/.installed-dev  ## what CI runs before the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bandit -q -c pyproject.toml -r circuitprune scripts .ci
	npm ci --prefix .ci --silent --no-audit --no-fund && npm run --prefix .ci --silent check

docs: $(VENV)/.installed-dev  ## these documents as a site, offline: docs/_build/index.html
	$(BIN)/sphinx-build -q -W --keep-going docs docs/_build

bench: $(VENV)/.installed  ## ratios to a plain forward, GPT-2-small shape; see benchmarks/RESULTS.md
	$(BIN)/python benchmarks/run.py

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs docs/_build

# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo real test check docs bench clean

demo: $(VENV)/.installed  ## find, verify and export a circuit of the shipped model
	rm -rf runs/demo
	$(BIN)/python scripts/train_mask.py configs/ioi.yaml output_dir=runs/demo

FEW := threads=2 n_removed=100 n_random=20 n_knockouts=5 n_adversarial=10

real: $(VENV)/.installed-gguf  ## the same of a pretrained model, SmolLM2-135M or MODEL=FOLDER, with evidence
	rm -rf runs/real
	model=$${MODEL:-$$($(BIN)/python scripts/get_real_model.py)} && \
	$(BIN)/python scripts/train_mask.py configs/smollm2_ioi.yaml model.name=$$model train.steps=300 output_dir=runs/real
	$(BIN)/python scripts/verify.py runs/real $(FEW)

test: $(VENV)/.installed-dev  ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist worksteal

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

$(VENV)/.installed-gguf: $(VENV)/.installed
	$(BIN)/pip install -q -c constraints.txt -e '.[gguf]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs docs/_build

# `make demo` and `make test` do all the set-up that they need on a fresh machine with Python 3.11 to 3.13.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo bench benchmarks test test-parity test-all lint clean

demo: $(VENV)/.installed
	$(BIN)/memlaw demo --out runs/demo

bench: $(VENV)/.installed-parity
	$(BIN)/python benchmarks/throughput.py --out runs/throughput

benchmarks: $(VENV)/.installed-parity
	$(BIN)/python benchmarks/run_all.py --out runs/benchmarks

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow and not parity"

test-parity: $(VENV)/.installed-parity
	$(BIN)/python -m pytest -n auto --dist loadfile -m "parity and not slow"

test-all: $(VENV)/.installed-all
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-parity: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test,parity]'
	touch $@ $(VENV)/.installed-test $(VENV)/.installed

$(VENV)/.installed-all: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test,parity,tpu,gcs]'
	touch $@ $(VENV)/.installed-parity $(VENV)/.installed-test $(VENV)/.installed

# Everything is installed into .venv, which `make clean` removes.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --constraint constraints.txt

.PHONY: run test lint types format wheel clean

run: .venv/run
	$(BIN)/python -m recipe freeze=vgg_first2 scheduler=step

test: .venv/dev
	$(BIN)/python -m compileall -q recipe  # once, and not in each of many processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/dev
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: .venv/dev
	$(BIN)/python -m hatchling build -t wheel

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/run: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

# torchvision as PyPI has it can't be imported beside a torch for the CPU alone: tests/conftest.py
# defines the two operators that it lacks there. The README ("Installing") has pairs that work.
.venv/dev: .venv/run
	$(PIP) --editable '.[dev,heic,vision,optimizers,server,search,slurm]'
	touch $@

clean:
	rm -rf .venv dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

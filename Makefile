# make bench: installs and runs the main job.   make test: the same environment, all tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: bench test test-fast lint

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

bench: $(VENV)/installed
	$(BIN)/attnbench train -m +experiment=quickstart/quality
	$(BIN)/attnbench speed -m +experiment=quickstart/speed

test: $(VENV)/installed
	$(BIN)/pytest -n auto --dist worksteal

test-fast: $(VENV)/installed
	$(BIN)/pytest -n auto --dist worksteal -m "not slow"

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

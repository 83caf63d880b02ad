# One command each: `make demo` and `make test` set everything up on a fresh machine (Python 3.11 or newer, and make).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow faults check fix bench clean

# the marks are files: what they depend on changes, and the next command installs again
$(VENV)/core: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/dev: $(VENV)/core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

$(VENV)/oracles: $(VENV)/dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,oracles]'
	@touch $@

$(VENV)/peers: $(VENV)/dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,peers]'
	@touch $@

demo: $(VENV)/core
	$(BIN)/alexnet train digits --variant paper --recipe fast --run demo --epochs 5
	$(BIN)/alexnet eval runs/demo --views 10 --min-top1 0.97
	$(BIN)/alexnet data get digits --into runs/digits
	$(BIN)/alexnet predict runs/demo runs/digits/7/0007.png
	@echo 'Next, with a folder of your own pictures, one folder a class:'
	@echo '  $(BIN)/alexnet train FOLDER'
	@echo '  $(BIN)/alexnet info paper --diff torchvision'

# OpenVINO and ONNX Runtime, each file in a process of its own (docs/decisions.md)
BACKENDS := tests/evaluation/test_backends.py tests/evaluation/test_exported.py
test: $(VENV)/dev
	for file in $(BACKENDS); do $(BIN)/python -m pytest -m 'not slow' $$file -q || exit; done
	$(BIN)/python -m pytest -m 'not slow' -q $(BACKENDS:%=--ignore=%)

test-slow: $(VENV)/oracles
	$(BIN)/python -m pytest -m slow -q

# PICTURES is a folder of class folders of real pictures; about an hour
faults: $(VENV)/dev
	$(BIN)/python -m tests.faults $(PICTURES)

check: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

fix: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# DATA is a folder of class folders, for `alexnet bench data`
bench: $(VENV)/peers
	$(BIN)/python bench/record.py $(DATA)

clean:
	rm -rf $(VENV) dist .pytest_cache .ruff_cache

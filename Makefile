# depthface: what a user types. Every target works from a clean clone; PYTHON picks the interpreter (3.10 to 3.13).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

MODELS ?= depth_anything_v2_small
WEIGHTS ?= hub
PRECISION ?= fp32
REPOSITORY ?= model_repository

.DEFAULT_GOAL := help
.PHONY: help setup export serve demo test test-fast lint format generate bench-depth bench-faces lock clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: $(VENV)/installed  ## .venv and everything in it

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
# insightface brings opencv-python, whose cv2 needs a desktop's libraries; the headless one of the same version takes
# its place.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps \
		--force-reinstall opencv-python-headless
	@touch $@

export: setup  ## weights to model_repository/ (MODELS=… WEIGHTS=hub|random|PATH PRECISION=fp32|fp16)
	$(BIN)/depthface export $(MODELS) --weights $(WEIGHTS) --precision $(PRECISION) --repository $(REPOSITORY)

serve: setup  ## the embedded Triton on 127.0.0.1:8000
	$(BIN)/depthface serve --repository $(REPOSITORY)

demo: setup  ## export, serve, one photo, one depth map, in demo/
	$(BIN)/python examples/demo.py

test: setup  ## the whole suite
	$(BIN)/python -m pytest

test-fast: setup  ## without the tests marked slow
	$(BIN)/python -m pytest -m "not slow"

lint: setup  ## ruff, mypy, the import table, stale generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py tests/export/test_generated.py

format: setup  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

generate: setup  ## write the committed text of model_repository/ anew, after a change of a card
	$(BIN)/python -m depthface_export.repository model_repository

bench-depth: setup  ## depth against the transformers pipeline, side by side
	$(BIN)/python -m depthface_bench.depth

bench-faces: setup  ## faces against insightface's FaceAnalysis, side by side
	$(BIN)/python -W ignore::FutureWarning -m depthface_bench.faces

lock: setup  ## write constraints.txt from what is installed
	$(BIN)/python -m pip freeze --exclude-editable | sed -E 's/\+cpu//' > constraints.txt

clean:  ## remove what the targets above made
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache
	find model_repository \( -name '*.onnx' -o -name '*.plan' -o -name manifest.json \) -delete
	rm -rf model_repository/*/configs

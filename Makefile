# depthface: what a user types. Every target works from a clean clone; PYTHON picks the interpreter (3.11 or 3.12).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

MODELS ?= depth_anything_v2_small
WEIGHTS ?= hub
PRECISION ?= fp32
REPOSITORY ?= model_repository
WORKERS ?= 2

# A file's tests run in one process, in their order; files with slow tests first (tests/conftest.py).
IN_PROCESSES = --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup setup-gpu export verify serve demo test test-fast test-gpu fuzz fuzz-gateway soak doctor audit lint format generate docs \
	setup-bench bench bench-gateway tune overload gpu-pack gpu-run lock clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: $(VENV)/installed  ## .venv and everything in it

$(VENV)/installed: pyproject.toml requirements.lock requirements-cuda.lock
	$(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes --no-deps --requirement requirements.lock
# PyPI's torch is the CUDA build and needs NVIDIA's libraries to be imported at all; PyTorch's CPU build does not.
	$(BIN)/python -c "import importlib.metadata as m; exit('+cpu' not in m.version('torch'))" \
		|| $(PIP) --require-hashes --no-deps --requirement requirements-cuda.lock
	$(PIP) --no-deps --no-build-isolation --editable .
# TensorRT's names, of both majors, for the tests that hold the code against them. They come without its libraries.
	for major in 10 11; do \
		$(PIP) --require-hashes --no-deps --upgrade --target $(VENV)/tensorrt-$$major \
			--requirement tests/fixtures/tensorrt-$$major.txt || exit 1; \
	done
	@touch $@

setup-gpu: setup  ## onnxruntime-gpu in onnxruntime's place
# Both: they share their files, so that what is left of either is not whole, and pip would call it installed.
	$(BIN)/python -m pip uninstall --quiet --yes onnxruntime onnxruntime-gpu
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[gpu]'

export: setup  ## weights to model_repository/ (MODELS=… WEIGHTS=hub|random|synthetic|PATH PRECISION=fp32|fp16|bf16|int8|auto)
	$(BIN)/depthface export $(MODELS) $(addprefix --weights ,$(filter-out hub,$(WEIGHTS))) --precision $(PRECISION) --repository $(REPOSITORY)

verify: setup  ## every artefact against its manifest, every engine against this machine
	$(BIN)/depthface verify --repository $(REPOSITORY)

serve: setup  ## the embedded Triton on 127.0.0.1:8000
	$(BIN)/depthface serve --repository $(REPOSITORY)

demo: setup  ## export, serve, one photo, one depth map, in demo/
	$(BIN)/python examples/demo.py

test: setup-bench  ## the whole suite, in WORKERS (2) processes
	$(BIN)/python -m pytest $(IN_PROCESSES)

test-fast: setup-bench  ## without the tests marked slow
	$(BIN)/python -m pytest $(IN_PROCESSES) -m "not slow"

test-gpu: setup-bench  ## what needs an NVIDIA GPU and TensorRT: engines built, gated, served
	$(BIN)/python -m pytest -m gpu

docs: setup  ## the site of docs/, in site/; a broken link or reference is an error
	$(BIN)/mkdocs build --strict --quiet

fuzz: setup  ## the decoder, the pack and manifest readers and a server, each fuzzed for MINUTES (10)
	for target in image pack manifest http parameters; do \
		$(BIN)/python tests/fuzz/run.py $$target --seconds $$(( $(or $(MINUTES),10) * 60 )) || exit 1; done

fuzz-gateway: setup  ## each contract's app by its OpenAPI, with a real server behind, for MINUTES (10)
	$(BIN)/python tests/gateway/fuzzing.py --minutes $(or $(MINUTES),10)

soak: setup  ## a server under mixed load for MINUTES (30): no wrong answer, nothing that grows
	$(BIN)/python -m depthface_bench.soak --minutes $(or $(MINUTES),30)
	$(BIN)/python -m depthface_bench.soak_client --minutes $(or $(MINUTES),10)
	DEPTHFACE_CYCLES=60 $(BIN)/python -m pytest -q tests/server/test_backend.py -k loads_and_unloads

doctor: setup  ## what this machine lacks, and how to mend it
	$(BIN)/depthface doctor --repository $(REPOSITORY)

audit: setup  ## known vulnerabilities (asks the network), licences, and the bill of materials sbom.json
	$(BIN)/python tools/audit.py

lint: setup  ## ruff, mypy, the import table, stale generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tools/gpu
	$(BIN)/python -m pytest -q tests/test_imports.py tests/export/test_generated.py

format: setup  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

generate: setup  ## write the committed text of model_repository/ anew, after a change of a card
	$(BIN)/python -m depthface_export.texts model_repository

setup-bench: setup  ## NVIDIA's perf_analyzer: the one on PATH, or the pinned wheel's
	$(BIN)/python -m depthface_bench setup

bench: setup-bench  ## this and what a user would take instead, in one run, to benchmarks/results/ (QUICK=1: a shorter look)
	$(BIN)/python -m depthface_bench run $(if $(QUICK),--quick)

bench-gateway: setup  ## what the gateway costs over asking the server itself, and what it gains over the library behind FastAPI
	$(BIN)/python -m depthface_bench.gateway

tune: setup-bench  ## instances × threads × batch × delay of the depth network, on the cores there are (PRECISION=…)
	$(BIN)/python -m depthface_bench tune --precision $(PRECISION)

overload: setup  ## ten times what the server can do, for two minutes: what is accepted, what is refused, memory
	$(BIN)/python -m depthface_bench.overload

gpu-pack: setup-bench  ## what a GPU machine without a network lacks, in pieces that can travel, in build/gpu/pieces/
	$(BIN)/python tools/gpu/pack.py

gpu-run:  ## on that machine: install the pieces aside, and measure within SECONDS (540); without a GPU a rehearsal
	$(PYTHON) tools/gpu/run.py --seconds $(or $(SECONDS),540)

lock:  ## resolve pyproject.toml anew: constraints.txt, and the locks with hashes
	test -x $(BIN)/uv || { $(PYTHON) -m venv $(VENV) && $(PIP) --constraint constraints.txt uv; }
	$(BIN)/python tools/lock.py

clean:  ## remove what the targets above made, but for the text of a committed model that was exported as an ensemble
	rm -rf $(VENV) demo build dist site sbom.json .pytest_cache .mypy_cache .ruff_cache .schemathesis
	git clean -dfXq model_repository

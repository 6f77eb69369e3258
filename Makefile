# What a person runs here. Everything is made inside .venv and build/, step by step; a step done once is not done again.

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
HOLD_TORCH := --constraint environments/torch.txt
INSTALL := $(BIN)/python environments/install.py
CPP := $(wildcard kernels/runtime/*.cpp kernels/runtime/*.h verification/sanitize/*.cpp)
BUILT_FROM := CMakeLists.txt pyproject.toml $(shell find kernels -name '*.py' -o -name '*.cpp' -o -name '*.h' -o -name '*.cmake')

.DEFAULT_GOAL := help
.PHONY: help venv develop demo demo-convert test verify sanitize denormals soak networks fuzz suites lint format bench bench-convert curve reports peers docs wheel clean
.DELETE_ON_ERROR:

help:  ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMPS)/environment  ## .venv with PyTorch, the networks and the tools

develop: $(STAMPS)/native  ## Build for this machine's instruction set alone (quick), to edit and try

demo: $(STAMPS)/package  ## The main job: a photograph through EfficientNet-Lite0, in PyTorch and through Ninefold
	@$(BIN)/ninefold demo $(ARGS)

demo-convert: $(STAMPS)/package  ## A trained digit network made separable, at one term and at two
	@rm -rf build/digits-1 build/digits-2
	@$(BIN)/ninefold convert digit-recognizer --data digits --terms 1 -o build/digits-1 $(ARGS)
	@$(BIN)/ninefold convert digit-recognizer --data digits --terms 2 -o build/digits-2 $(ARGS)

test: $(STAMPS)/package  ## The whole test suite, with every instruction set built
	@PYTHONPATH=environments/pytest $(BIN)/python -m pytest -p ninefold_unexpected_skips $(ARGS)

verify: $(STAMPS)/package  ## 20,000 random cases of each operator and direction against the definitions: hours
	@$(BIN)/python verification/verify.py $(ARGS)

sanitize: $(STAMPS)/environment  ## The C++ and the kernels under address, undefined-behaviour and thread sanitizers
	@$(BIN)/python verification/sanitize.py $(ARGS)

denormals: $(STAMPS)/package  ## What numbers below 2⁻¹²⁶ cost a call: no more than twice its time
	@$(BIN)/python verification/denormals.py $(ARGS)

networks: $(STAMPS)/package  ## Thirty networks against PyTorch, in inference and in one training step
	@$(BIN)/python verification/networks.py $(ARGS)

fuzz: $(STAMPS)/package  ## Ten minutes of bytes that nobody wrote, into every loader, and saved plans altered
	@$(BIN)/python verification/fuzz.py $(ARGS)
	@$(BIN)/python verification/altered.py

soak: $(STAMPS)/package  ## Ten minutes of mixed calls from several threads, with flat memory
	@$(BIN)/python verification/soak.py $(ARGS)

suites: $(STAMPS)/package  ## Other people's suites, faults and hostile files, counted
	@$(BIN)/python verification/suites.py $(ARGS)

lint: $(STAMPS)/environment  ## ruff, mypy and clang-format
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary
	@$(if $(CPP),$(BIN)/clang-format --dry-run -Werror $(CPP))
	@echo "lint: nothing to say"

format: $(STAMPS)/environment  ## Write Python and C++ the way lint wants them
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .
	@$(if $(CPP),$(BIN)/clang-format -i $(CPP))

bench: $(STAMPS)/package  ## Ninefold against its peers, with this machine's limits beside; writes benchmarks/results
	@$(BIN)/python benchmarks/ops.py --write $(ARGS)
	@$(BIN)/python benchmarks/inference.py --write $(ARGS)
	@$(BIN)/python benchmarks/training.py --write

bench-convert: $(STAMPS)/package  ## Networks trained on Fashion-MNIST, converted, distilled, three seeds; takes 30 minutes of a core
	@$(BIN)/python benchmarks/convert.py --write $(ARGS)

curve: $(STAMPS)/package  ## Fashion-MNIST learnt in fused chains and in PyTorch, three seeds each way; takes 30 minutes of a core
	@$(BIN)/python benchmarks/curve.py --write $(ARGS)

reports: $(STAMPS)/package  ## ninefold report on six networks and files, totals held against PyTorch's; build/reports
	@$(BIN)/python benchmarks/reports.py $(ARGS)

peers: $(STAMPS)/environment  ## ONNX Runtime, OpenVINO, ncnn and ExecuTorch, for make bench to compare with
	@$(PIP) install $(HOLD_TORCH) --requirement environments/peers.txt
	@$(PIP) install --no-deps --requirement environments/peers-bare.txt

docs: $(STAMPS)/environment  ## The documentation, into build/docs; a warning is an error
	@PYTHONPATH=src $(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs
	@echo "documentation: build/docs/index.html"

wheel: $(STAMPS)/environment  ## A wheel from an isolated build, as a stranger's pip makes it, and a look inside
	@rm -rf dist
	@$(INSTALL) "building the wheel" wheel --no-deps --wheel-dir dist .
	@$(BIN)/python environments/check_wheel.py dist/*.whl

clean:  ## Remove everything that was made
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis report.html
	find src -name '*.so' -delete

# PyTorch comes before anything that depends on it, so that nothing else chooses which PyTorch that is.
$(STAMPS)/torch: environments/torch.txt
	@test -x $(BIN)/python || { echo "making .venv"; $(PYTHON) -m venv $(VENV); }
	@mkdir -p $(STAMPS)
	@echo "installing PyTorch"
	@$(PIP) install --requirement environments/torch.txt
	@touch $@

$(STAMPS)/environment: $(STAMPS)/torch $(wildcard environments/*.txt environments/site/*)
	@echo "installing networks, build requirements and tools"
	@$(PIP) install --no-deps --requirement environments/networks.txt
	@$(PIP) install $(HOLD_TORCH) --requirement environments/build.txt --requirement environments/development.txt
	@cp environments/site/* "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	@touch $@

# Two builds of one package, each in a folder of its own: whichever was asked for last is the one installed.
EDITABLE := install --no-deps --no-build-isolation --force-reinstall --editable .

$(STAMPS)/package: $(STAMPS)/environment $(BUILT_FROM)
	@$(INSTALL) "building every instruction set" $(EDITABLE) -C build-dir=build/all -C cmake.define.NINEFOLD_ISAS=all
	@rm -f $(STAMPS)/native && touch $@

$(STAMPS)/native: $(STAMPS)/environment $(BUILT_FROM)
	@$(INSTALL) "building for this machine" $(EDITABLE) -C build-dir=build/native -C cmake.define.NINEFOLD_ISAS=native
	@rm -f $(STAMPS)/package && touch $@

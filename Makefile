# What the README and CI call. PYTHON picks the interpreter, PIP_ARGS adds arguments to pip.

PYTHON ?= python3
PIP_ARGS ?=
# What the tests train with: PyTorch's build for CPUs (its own index has that one: see CONTRIBUTING.md).
TORCH ?= torch==2.13.0
DEMO ?= profiles/layer_stack/results/nvidia-h200/fp8-delayed.tetrace

# Tests at a time. One more than there are processors, since many wait for a process that sleeps.
JOBS ?= $(shell $(PYTHON) -c 'import os; print(min(4, (os.cpu_count() or 1) + 1))')

BIN := .venv/bin
INSTALLED := .venv/installed
TORCH_INSTALLED := .venv/torch
BUILT_FROM := pyproject.toml setup.py CMakeLists.txt $(shell find cmake csrc -type f)
# The package alone, without the FP8 kernels: only recordings need them, and they are a third of the compiling.
READS := build/demo/installed

.DEFAULT_GOAL := help
.PHONY: help setup torch demo browser test test-pages test-gpu lint sdist wheel package docs clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

setup: $(INSTALLED) ## create .venv, build the extension, install everything the other targets need

torch: $(TORCH_INSTALLED) ## the first part of setup, which compiles nothing: .venv with PyTorch

$(TORCH_INSTALLED):
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) $(TORCH)
	@touch $@

$(INSTALLED): $(BUILT_FROM) | $(TORCH_INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --editable '.[test,lint]' $(TORCH)
	@touch $@

$(READS): $(BUILT_FROM) $(shell find tetrace -name '*.py')
	$(PYTHON) -m venv build/demo
	CMAKE_ARGS="$(CMAKE_ARGS) -DTETRACE_FP8=OFF" build/demo/bin/python -m pip install --disable-pip-version-check $(PIP_ARGS) .
	@touch $@

# By what `make setup` made, where that is there.
demo: $(or $(wildcard $(INSTALLED)),$(READS)) ## report a recording of an H200 that is kept in this repository
	$(dir $<)bin/tetrace report $(DEMO)

browser: ## a Chromium for the tests of HTML reports, where there is none
	@command -v chromium || command -v chromium-browser || command -v google-chrome || \
		{ test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -qq --yes --no-install-recommends chromium; } || \
		{ $(MAKE) setup && $(BIN)/python -m playwright install $$(test "$$(id -u)" != 0 || echo --with-deps) chromium-headless-shell; } || \
		echo "no Chromium could be installed: the tests that need one are skipped"

test: setup ## run the tests; those that need a GPU only where there is one
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-pages: setup ## open the HTML report of every recording here, and one of a million kernels, in a browser: minutes
	TETRACE_ALL_PAGES=1 $(BIN)/python -m pytest -q -rP -n $(JOBS) tests/report/test_html_browser.py -k "every_section or many_kernels"

test-gpu: setup ## run the tests that need an NVIDIA GPU
	$(BIN)/python -m pytest -q -m gpu

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

sdist: ## build the sdist, into dist/
	rm -rf dist build/package
	$(PYTHON) -m venv build/package
	build/package/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) build
	build/package/bin/python -m build --sdist --outdir dist .

wheel: ## build a wheel from the sdist that is in dist/, and try that in an environment of its own
	build/package/bin/python -m pip wheel --quiet --disable-pip-version-check $(PIP_ARGS) --no-deps --wheel-dir dist dist/*.tar.gz
	build/package/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) dist/*.whl
	build/package/bin/tetrace report tests/data/te4-fp8.sqlite
	build/package/bin/python .ci/check_build.py

package: sdist ## both
	$(MAKE) wheel

docs: setup ## write docs/tables.md, docs/cli.md and the outputs in README.md again
	$(BIN)/python docs/generate.py

clean: ## remove what the other targets made
	rm -rf .venv build dist *.egg-info tetrace/*.so .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

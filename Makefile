# make demo        builds, and runs small versions of the experiments; prints where the figures are
# make test        builds, and runs all tests
# make emulate     runs the CUDA kernels in the emulator: every schedule, then every sanitizer
# make lint        runs ruff, mypy and clang-format, and checks the layers
# make format      repairs what ruff and clang-format can repair
# make bench       runs the end-to-end benchmark
# make docs        builds the site, into build/docs; warnings are errors
# make resources   checks registers, shared memory and occupancy of the CUDA kernels; needs nvcc, no GPU
# make gpu-check   builds, checks and measures on a machine with a GPU, with PYTHON as it is, offline
# make clean       deletes what was built
#
# ENV=none uses $(PYTHON) as it is, with its own torch, and installs only mige_ext.
# MIGE_CUDA=auto|on|off selects the CUDA kernels; auto builds them where nvcc is found.

PYTHON ?= python3
VENV ?= .venv
ENV ?= venv

ifeq ($(ENV),none)
  RUN := $(PYTHON)
  CMAKE := cmake
  ENVIRONMENT :=
else
  RUN := $(VENV)/bin/python
  CMAKE := $(VENV)/bin/cmake
  ENVIRONMENT := $(VENV)/.installed
endif

# Absolute, for CMake, and without following links, which would leave the environment.
RUN_PATH = $(shell $(RUN) -c 'import sys; print(sys.executable)')

NATIVE := CMakeLists.txt setup.py $(shell find csrc -type f)
BUILT := build/.built-$(ENV)-$(or $(MIGE_CUDA),auto)

EMULATOR := build/emulator
JOBS ?= 2
# Side by side, where pytest-xdist is installed.
PARALLEL = $(shell $(RUN) -c 'import xdist; print("-n $(JOBS)")' 2>/dev/null)
SANITIZED := "emulated and (batch_is_its_groups or info_says or large_group or (many_blocks and indefinite))"
CXX_SOURCES := 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu' 'csrc/*.cuh' \
  'tests/emulator/*.cpp' 'tests/emulator/*.h' 'tests/emulator/*.cu'

.PHONY: demo test emulate lint format bench docs resources gpu-check clean emulator-plain \
  emulator-faults emulator-asan emulator-tsan

demo: $(BUILT)
	rm -rf runs/demo
	$(RUN) -m mige_ext toy --quick --out runs/demo/toy
	$(RUN) -m mige_ext infomax --quick --out runs/demo/infomax
	$(RUN) -m mige_ext bottleneck --quick --out runs/demo/bottleneck
	$(RUN) -m mige_ext removal --quick --out runs/demo/removal
	@echo
	@echo "Figures:"
	@ls -1 $(CURDIR)/runs/demo/*/*.png
	@echo "For your own Python: . $(VENV)/bin/activate"

test: $(BUILT) emulator-plain emulator-faults
	$(RUN) -m pytest $(PARALLEL)

# The operators and the ways through them in every schedule (`make test` has run the ascending one).
# A sanitizer's reports do not hang on the schedule or on the numbers: one size, every kernel.
emulate: $(BUILT) emulator-plain emulator-faults emulator-asan emulator-tsan
	set -e; for schedule in descending shuffled; do MIGE_EMULATOR_SCHEDULE=$$schedule \
	  $(RUN) -m pytest $(PARALLEL) tests/ops tests/emulator/test_emulated_paths.py -k emulated; done
	set -e; for variant in asan tsan; do MIGE_EMULATOR=$$variant \
	  $(RUN) -m pytest $(PARALLEL) tests/ops tests/emulator/test_emulated_paths.py -k $(SANITIZED); done

bench: $(BUILT)
	$(RUN) -m benchmarks end-to-end

docs: $(BUILT)
	$(RUN) -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "$(CURDIR)/build/docs/index.html"

gpu-check:
	$(PYTHON) tools/gpu_check.py $(if $(OUT),--out $(OUT))

resources: $(BUILT)
	$(RUN) tools/resources.py

lint: $(BUILT)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports --no-cache --no-logo
	$(VENV)/bin/clang-format --dry-run --Werror $$(git ls-files $(CXX_SOURCES))

format: $(ENVIRONMENT)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .
	$(VENV)/bin/clang-format -i $$(git ls-files $(CXX_SOURCES))

# CMake decides what there is to do.
emulator-plain emulator-faults emulator-asan emulator-tsan: $(ENVIRONMENT)
	@$(CMAKE) -S tests/emulator -B $(EMULATOR) -DPython_EXECUTABLE=$(RUN_PATH) >/dev/null
	$(CMAKE) --build $(EMULATOR) --target $(@:emulator-%=%) --parallel $(JOBS)

$(VENV)/.installed: requirements-dev.txt
	@echo "Installing torch and the tools into $(VENV); this takes a minute or two."
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

$(BUILT): $(ENVIRONMENT) $(NATIVE) pyproject.toml
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps \
	  --config-settings editable_mode=compat -e .
	mkdir -p build && touch $@

clean:
	rm -rf build dist runs *.egg-info mige_ext/_C.abi3.so

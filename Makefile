# make demo   environment, build, a small version of the experiments; prints where the figures are
# make test   environment, build, all tests
# make lint   ruff, mypy, clang-format
# make bench  the end-to-end benchmark
# make resources   registers, shared memory and occupancy of the CUDA kernels; needs nvcc, but no GPU
# make gpu-check   on a machine with a GPU: build for it, check, measure; with PYTHON as it is, offline
#
# ENV=none uses $(PYTHON) as it is, with whatever torch it has, and installs nothing but mige_ext.
# MIGE_CUDA=auto|on|off decides about the CUDA kernels; auto builds them where nvcc is found.

PYTHON ?= python3
VENV ?= .venv
ENV ?= venv

ifeq ($(ENV),none)
  RUN := $(PYTHON)
  ENVIRONMENT :=
else
  RUN := $(VENV)/bin/python
  ENVIRONMENT := $(VENV)/.installed
endif

NATIVE := CMakeLists.txt setup.py $(shell find csrc -type f)
BUILT := build/.built-$(ENV)-$(or $(MIGE_CUDA),auto)

.PHONY: demo test lint format bench resources gpu-check clean

demo: $(BUILT)
	rm -rf runs/demo
	$(RUN) -m mige_ext toy --quick --out runs/demo/toy
	$(RUN) -m mige_ext bottleneck --quick --out runs/demo/bottleneck
	@echo
	@echo "Figures:"
	@ls -1 $(CURDIR)/runs/demo/*/*.png
	@echo "For your own Python: . $(VENV)/bin/activate"

test: $(BUILT)
	$(RUN) -m pytest

bench: $(BUILT)
	$(RUN) -m mige_ext bench

gpu-check:
	$(PYTHON) benchmarks/gpu_check.py $(if $(OUT),--out $(OUT))

resources: $(BUILT)
	$(RUN) benchmarks/resources.py

lint: $(BUILT)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu' 'csrc/*.cuh')

format: $(ENVIRONMENT)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .
	$(VENV)/bin/clang-format -i $$(git ls-files 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu' 'csrc/*.cuh')

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

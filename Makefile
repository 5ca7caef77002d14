# Each target makes what it needs. On a fresh machine: Python >= 3.11 with pip, a C++17 compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check
SOURCES := pyproject.toml CMakeLists.txt constraints.txt README.md LICENSE \
  $(shell find crn_fast kernels training -not -path '*/__pycache__*')
CXX_FILES := $(wildcard kernels/cpu/*.cpp kernels/cpu/*.h)

# PyPI's torch for Linux brings gigabytes of CUDA. Where there is no NVIDIA driver, and pip has not been
# given sources of its own, PyTorch's CPU index is used if it answers. `TORCH_INDEX=` says no to that.
CPU_INDEX := https://download.pytorch.org/whl/cpu
TORCH_INDEX ?= $(shell [ "$$(uname)" = Linux ] && ! command -v nvidia-smi >/dev/null \
  && ! $(PYTHON) -m pip config list 2>/dev/null | grep -q 'index-url\|find-links' \
  && $(PYTHON) -c 'import urllib.request as u; u.urlopen("$(CPU_INDEX)/", timeout=3)' 2>/dev/null \
  && echo $(CPU_INDEX))

.PHONY: demo test soak docs ci-extra lint types package bench bench-quick report instructions sanitize \
  compile-gpu pycuda-wheel format clean

demo: $(VENV)/has-core  # Rendering on a CPU needs no torch.
	$(BIN)/crn-fast demo

test: $(VENV)/has-train,dev
	$(BIN)/pytest $(PYTEST_ARGS)

# Tries to break every promise, about an hour, with a fresh seed, and writes docs/reliability.md.
# PYTEST_ARGS="-k kills --seed 7" for some of it, or again.
soak: $(VENV)/has-train,dev
	$(BIN)/pytest tests/hostile --soak --record $(PYTEST_ARGS)

ci-extra: lint types package docs

lint: $(VENV)/has-train,dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

types: $(VENV)/has-train,dev  # From a folder without crn_fast/, so that mypy sees the wheel.
	cd $(VENV) && bin/mypy --config-file ../pyproject.toml --cache-dir ../.mypy_cache -p crn_fast

package: $(VENV)/has-train,dev
	rm -rf build/dist
	$(BIN)/python -m build --no-isolation --outdir build/dist
	$(PIP) wheel -q --no-build-isolation --no-deps --config-settings wheel.cmake=false -w build/dist .
	$(BIN)/python tests/check_wheel.py build/dist

# All suites of benchmarks/; hours, on an idle machine. PYTEST_ARGS="-k frame --network 256p" for some.
SUITES = $(BIN)/pytest benchmarks -q --benchmark-columns=min,median,max,rounds
bench: $(VENV)/has-train,bench
	$(SUITES) --rows benchmarks/results $(PYTEST_ARGS)

bench-quick: $(VENV)/has-train,bench  # Minutes; twice, and benchmarks/agree.py compares the two.
	$(SUITES) --quick $(PYTEST_ARGS)

report: $(VENV)/has-train,dev  # docs/benchmarks.md, its plots and README's table.
	$(BIN)/python benchmarks/reporting/report.py

instructions: $(VENV)/has-core  # Of each native op, under valgrind. ACCEPT=1 takes them as they are.
	$(BIN)/python benchmarks/instructions.py $(if $(ACCEPT),--accept)

# SANITIZE=thread for the thread sanitizer. Python itself is not sanitized, so the runtime is
# preloaded, and leaks are not looked for: the interpreter's own would drown ours. Nor is torch, the
# oracle's: with one thread it has no races to report. The ops with generated shapes against their
# oracle, then with arguments made wrong, and engines in threads. Needs Linux and GCC.
SANITIZE ?= address,undefined
RUNTIME := $(if $(findstring thread,$(SANITIZE)),libtsan.so,libasan.so)
SITE := build/sanitize/$(SANITIZE)
sanitize: $(VENV)/has-train,dev
	$(PIP) install -q --no-build-isolation --no-deps --upgrade --target '$(SITE)/site' \
	  --config-settings build-dir='$(SITE)/cmake' \
	  --config-settings cmake.define.CRN_FAST_SANITIZE='$(SANITIZE)' .
	LD_PRELOAD="$$(gcc -print-file-name=$(RUNTIME)) $$(gcc -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
	  TSAN_OPTIONS=allocator_may_return_null=1 \
	  OMP_NUM_THREADS=1 PYTHONPATH='$(SITE)/site' $(BIN)/pytest -s $(PYTEST_ARGS) \
	  $(addprefix tests/ops/test_,$(addsuffix .py,label_pyramid packing refine conv head)) \
	  tests/hostile/test_memory_safety.py

# pycuda as a wheel in build/wheels, on a machine without a driver: its build links with libcuda, which
# only a driver has, so it gets an empty one of that name, kept as needed although nothing is found in
# it. The wheel works where there is a driver. Needs CUDA's headers.
CUDA_ROOT ?= /usr/local/cuda
PYCUDA := 2026.1
pycuda-wheel: $(VENV)/has-build-tools
	rm -rf build/pycuda && mkdir -p build/pycuda/stub build/wheels
	gcc -shared -fPIC -Wl,-soname,libcuda.so.1 -o build/pycuda/stub/libcuda.so -x c /dev/null
	$(PIP) install -q -c constraints.txt setuptools wheel numpy pytools mako platformdirs
	$(PIP) download -q --no-deps --no-binary :all: --no-build-isolation -d build/pycuda pycuda==$(PYCUDA)
	tar xzf build/pycuda/pycuda-$(PYCUDA).tar.gz -C build/pycuda --strip-components 1
	cd build/pycuda && ../../$(BIN)/python configure.py --cuda-root='$(CUDA_ROOT)' \
	  --cuda-inc-dir='$(CUDA_ROOT)/include' --cudadrv-lib-dir="$$PWD/stub" --no-cuda-enable-curand
	LDFLAGS=-Wl,--no-as-needed $(PIP) wheel -q --no-build-isolation --no-deps -w build/wheels build/pycuda

# Every launch of the Triton kernels for the authors' networks, on every architecture; an hour or more.
compile-gpu: $(VENV)/has-train,dev
	CRN_FAST_COMPILE=all $(BIN)/pytest tests/ops/test_gpu_ahead.py

# The documentation as a web site in build/docs; what does not resolve is an error.
docs: $(VENV)/has-train,docs
	$(BIN)/sphinx-build -W --keep-going -q -E docs build/docs

format: $(VENV)/has-train,dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CXX_FILES)

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks

$(VENV)/has-build-tools: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt scikit-build-core nanobind cmake ninja setuptools
	touch $@

# has-EXTRAS: the package with these extras, as an installed wheel that is no older than its sources.
$(VENV)/has-core: $(VENV)/has-build-tools $(SOURCES)
	$(PIP) install -q --no-build-isolation -c constraints.txt .
	touch '$@'

$(VENV)/has-%: $(VENV)/has-build-tools $(SOURCES)
	$(PIP) install -q --no-build-isolation -c constraints.txt \
	  $(addprefix --extra-index-url ,$(TORCH_INDEX)) '.[$*]'
	touch '$@'

# `make quickstart` and `make test` work on a fresh machine with Python 3.11, 3.12 or 3.13.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# where torch comes from; PyTorch's index of CPU builds saves 4.6 GB: TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
QUICKSTART_OUT ?= runs/quickstart
# a process a core, each with one thread (tests/conftest.py); the models are tiny, and threads gain nothing
PARALLEL ?= -n auto --dist worksteal
UV_INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt
# what `make test` runs, by default every test
TESTS ?=
DATA ?= $(or $(BITNET_BENCH_DATA),../shared/data)

.PHONY: quickstart test fuzz install browser emulators check check-install test-pythons test-bounds test-clusters test-slow mutants notebooks notebook-outputs docs test-wheel demo-checkpoints results benchmark clean

quickstart: install
	$(BIN)/bitnet-bench quickstart --out $(QUICKSTART_OUT)

test: install
	$(BIN)/python -m pytest $(PARALLEL) $(TESTS)

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt $(wildcard bitnet_bench/ternary/kernel/*.[ch])
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	# torch alone first: with a pin pip takes a CPU build where one is offered
	$(BIN)/pip install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	# uv downloads and builds side by side; pip where uv fails, as where only pip's configuration knows an index
	$(BIN)/pip install --quiet uv && $(UV_INSTALL) --editable '.[dev]' || \
		$(BIN)/pip install --quiet --use-pep517 --constraint constraints.txt --editable '.[dev]'
	touch $@
	@ls bitnet_bench/ternary/kernel/_library.*.so >/dev/null 2>&1 || printf '%s\n' \
		'Installed without the ternary CPU kernel, because no C compiler worked: ternary models run on the slower' \
		'backend `hf`. To build it: install gcc (apt-get install gcc), delete $@, and run make again.'

# the wheel, the resolution of all dependencies for every supported Python, and what a wheel without a compiler says
check-install: install
	$(BIN)/python .ci/check_install.py

# the tests of what a Python can change, with every supported Python of this machine, each in an environment of its own;
# SKIP=3.11 leaves out one that was tested already
test-pythons:
	$(PYTHON) .ci/test_pythons.py $(SKIP)

# the tests with the oldest versions that pyproject.toml allows, and with the newest that exist
test-bounds: install
	.ci/test_bounds lowest-direct 3.11
	.ci/test_bounds highest 3.13

# Chromium and its driver, for the tests that click through a report; without them those tests are skipped
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver fonts-noto-cjk; \
		else echo "no chromium and chromedriver here: the tests that need them are skipped"; fi

# a cross compiler and an emulator for ARM; without them the tests of ARM's instructions are skipped
emulators:
	@command -v aarch64-linux-gnu-gcc >/dev/null && { command -v qemu-aarch64 || command -v qemu-aarch64-static; } >/dev/null || \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends \
				gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user; \
		else echo "no aarch64-linux-gnu-gcc and qemu-aarch64 here: the tests that need them are skipped"; fi

check: install
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

# sweeps on clusters of this machine: two nodes of Ray, and two of SLURM if slurm-wlm and munge are installed and this is
# root: apt-get install slurm-wlm munge
test-clusters: install
	$(BIN)/python -m pytest tests/sweeps -m '' -n 0

test-slow: install
	$(BIN)/python -m pytest $(PARALLEL) -m ''

# every parser of a foreign file on 50,000 damaged files; FUZZ="--parser gguf --seed 7" for others
fuzz: install
	PYTHONPATH=tests $(BIN)/python -m fuzz $(FUZZ)

# how many small changes of a part the tests notice (docs/decisions/020-mutation-score.md); minutes to an hour:
# make mutants PART="evaluation cache" SAMPLE=150 SEED=1, where SAMPLE=0 is all
PART ?= statistics
SAMPLE ?= 150
SEED ?= 1
mutants: install
	BITNET_BENCH_DATA=$(abspath $(DATA)) $(BIN)/python .ci/mutants.py $(PART) --sample $(SAMPLE) --seed $(SEED) --mypy

# every cell of every notebook, on the embedded pair, against the outputs that it keeps
notebooks: install
	$(BIN)/python -m pytest $(PARALLEL) tests/test_notebooks.py -m ''

# runs every cell again and keeps what it prints in the notebook; a test says when that is due
notebook-outputs: install
	PYTHONPATH=tests $(BIN)/python -m notebook_outputs

# the site in build/site; a warning is an error; then the Korean pages whose English page has changed
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@$(BIN)/python .ci/korean_pages.py

# the extra alone: with the project the kernel would be compiled again
.venv/docs: .venv/installed
	$(UV_INSTALL) --requirements pyproject.toml --extra docs
	touch $@

# docs/cli.md from the command line itself; a test compares the two
docs/cli.md: install
	BITNET_BENCH_LANG=en $(BIN)/python -m typer bitnet_bench.cli utils docs --name bitnet-bench --output $@

# against the wheel of check-install, which has compared its files with the tree's: what finds modules, tables, templates,
# weights, kernel and recipes through the installed package; the rest was tested by `make test`
WHEEL_TESTS := tests/test_packaging.py tests/test_plugins.py tests/test_library.py tests/test_golden_output.py \
	tests/pipeline/test_recipe.py tests/reports/test_html.py tests/evaluation/test_suites.py tests/ternary/test_checkpoint.py
test-wheel: check-install
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/pip install --quiet --no-deps --target build/wheel build/dist/bitnet_bench-*.whl
	rm -rf build/outside && mkdir -p build/outside && cp -r tests pyproject.toml build/outside/
	cd build/outside && BITNET_BENCH_DATA=$(abspath $(DATA)) BITNET_BENCH_FROM_WHEEL=$(abspath build/wheel) \
		PYTHONPATH=$(abspath build/wheel) $(abspath $(BIN))/python -P -m pytest $(PARALLEL) $(WHEEL_TESTS)

demo-checkpoints: install
	$(BIN)/python benchmarks/demo_pair.py prepare --data-dir $(DATA) --work runs/demo
	$(BIN)/python benchmarks/demo_pair.py search --work runs/demo
	$(BIN)/python benchmarks/demo_pair.py pretrain --work runs/demo --precision ternary
	$(BIN)/python benchmarks/demo_pair.py pretrain --work runs/demo --precision fp16
	$(BIN)/python benchmarks/demo_pair.py install --work runs/demo

results: install
	$(BIN)/python benchmarks/results.py --data-dir $(DATA) --out runs/results

# one layer against torch; a whole model against peers: benchmarks/engine.py model --help
benchmark: install
	$(BIN)/python benchmarks/engine.py layer
	$(BIN)/python -m pytest benchmarks -q --benchmark-columns=median,iqr,rounds

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

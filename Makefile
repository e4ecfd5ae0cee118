# Two commands matter: `make reproduce` runs the whole study on the shipped model and data,
# `make test` checks everything.  Both build .venv first and reuse it afterwards.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup reproduce test long portable coverage oldest neighbours robustness fuzz real lint notebooks lab numbers docs wheel try clean

help:  ## Show this list.
	@sed -n 's/^\([a-z]*\):.*##  *\(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(STAMP)  ## Create .venv with the tested versions (PYTHON=python3.12 to choose another Python).

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "$(PYTHON) is older than 3.11; use make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --no-compile -c constraints.txt -e '.[train,math,notebooks,test,browser]'
	touch $@

# What was compiled is kept, even where the environment forbids it beside the sources: importing torch
# and transformers takes a third of the time then, in every process and kernel that is started.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(CURDIR)/build/pycache

reproduce: $(STAMP)  ## Testbed, measurements, CoT-SFT and Att-CoT, report: a new folder under runs/.
	$(BIN)/attcot reproduce

# One thread per process, so that results do not depend on the core count and two workers do not
# fight; no bars and no network, so that nothing but results is printed.
test long coverage notebooks portable: export OMP_NUM_THREADS := 1
test long coverage notebooks portable: export TOKENIZERS_PARALLELISM := false
test long coverage notebooks portable: export TQDM_DISABLE := 1
test long coverage notebooks portable: export HF_HUB_OFFLINE := 1
# glibc gives big blocks back at once and faults them in again; keeping them takes a third less time.
test coverage notebooks portable reproduce: export MALLOC_MMAP_THRESHOLD_ := 1073741824
test coverage notebooks portable reproduce: export MALLOC_TRIM_THRESHOLD_ := 4294967296

COMPARE_NOTEBOOKS := $(BIN)/pytest notebooks -n 2 --dist loadscope --nbval --nbval-current-env \
    --nbval-cell-timeout 300 --nbval-sanitize-with tests/nbval_sanitize.cfg
GOLDEN := $(BIN)/pytest tests -m golden -n 2 --dist loadscope

test: lint  ## Lint, unit tests, notebooks compared with their stored outputs.
	$(BIN)/pytest tests -m 'not long' -n 2 --dist loadscope --no-loadscope-reorder --durations 30
	$(COMPARE_NOTEBOOKS)

# Kernels of other processors, as far as this one can run them: torch's own, oneDNN's, MKL's and
# OpenBLAS's, each of which adds in another order; on one thread and on two.
OLD := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 \
    OPENBLAS_CORETYPE=Nehalem OMP_NUM_THREADS=1
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
    OPENBLAS_CORETYPE=Haswell OMP_NUM_THREADS=2

portable: $(STAMP)  ## Notebooks and stored numbers once more, with two unlike instruction sets.
	$(OLD) $(COMPARE_NOTEBOOKS)
	$(OLD) $(GOLDEN)
	$(AVX2) $(COMPARE_NOTEBOOKS)
	$(AVX2) $(GOLDEN)

# Apart, so that `make test` stays below twenty minutes: what it runs is run there in smaller parts.
long: $(STAMP)  ## The tests that take longest: benchmarks, recipes, several processes, notebooks in JupyterLab.
	$(BIN)/pip install -q --no-compile -c constraints.txt -e '.[docs]'
	$(BIN)/pytest tests -m long -n 2 --dist loadscope

# Apart, since counting lines takes a quarter longer.
coverage: $(STAMP)  ## Unit tests again, and which lines they reach (at least 85 %).
	$(BIN)/pytest tests -n 2 --dist loadscope \
	    --cov=attcot_analysis --cov=attcot_lab --cov-report term --cov-fail-under 85

# What pyproject.toml promises to work with; the shipped numbers are those of constraints.txt, so tests
# that compare with them to the digit are left out. uv, since pip cannot choose the oldest versions.
oldest: export OMP_NUM_THREADS := 1
oldest: export HF_HUB_OFFLINE := 1
oldest:  ## Tests of models, measurements and trainers with the oldest versions that are allowed.
	test -x build/oldest/bin/uv || { $(PYTHON) -m venv build/oldest && build/oldest/bin/pip install -q uv; }
	build/oldest/bin/uv pip install -q --python build/oldest/bin/python --index-strategy unsafe-best-match \
	    --resolution lowest-direct -e '.[train,math,notebooks,test]'
	build/oldest/bin/python -m pytest -q -n 2 --dist loadscope tests/problems tests/models tests/measure \
	    tests/show tests/train/test_lora.py tests/train/test_trainer.py tests/train/test_trl.py

# Apart, since each brings a hundred packages; with the torch and transformers of constraints.txt.
neighbours: export OMP_NUM_THREADS := 1
neighbours: export HF_HUB_OFFLINE := 1
neighbours:  ## Layouts, logs, values, weights: with the newest TransformerLens, nnsight, Inspect, trackers, bitsandbytes.
	test -x build/neighbours/bin/uv || { $(PYTHON) -m venv build/neighbours && build/neighbours/bin/pip install -q uv; }
	grep -E '^(torch|torchvision|transformers)==' constraints.txt > build/neighbours/pins.txt
	build/neighbours/bin/uv pip install -q --python build/neighbours/bin/python --index-strategy unsafe-best-match \
	    -c build/neighbours/pins.txt -e '.[train]' pytest 'transformer-lens>=4' nnsight inspect-ai trackio wandb \
	    bitsandbytes 'ray[data]'
	build/neighbours/bin/python -m pytest -q --noconftest tests/neighbours/check_neighbours.py

# The same tests as in `make test`, with more kills and more damaged inputs.
robustness: export OMP_NUM_THREADS := 1
robustness: export TQDM_DISABLE := 1
robustness: export HF_HUB_OFFLINE := 1
robustness: $(STAMP)  ## Plant faults (60 kills among them) and print how many were survived.
	$(BIN)/pytest -q tests/robustness --kills 60 --examples 100

# Outside of `make test`. What was drawn can be drawn again with the SEED that a failure names.
MINUTES ?= 10
SEED ?= 0
fuzz: export OMP_NUM_THREADS := 1
fuzz: export TQDM_DISABLE := 1
fuzz: export HF_HUB_OFFLINE := 1
fuzz: $(STAMP)  ## Commands on damaged files, drawn at random for MINUTES=10: each must end in a sentence.
	$(BIN)/pytest -q tests/robustness/test_fuzz.py --minutes $(MINUTES) --fuzz-seed $(SEED) --examples 100

# Any checkpoint of a supported family: REAL=folder or hub id.
REAL ?= HuggingFaceTB/SmolVLM-256M-Instruct
real: $(STAMP)  ## A published checkpoint (from the hub) on comparisons of colours, checked and measured.
	$(BIN)/attcot check-model $(REAL) --format prose --max-patches 1
	test -d runs/real/problems || $(BIN)/attcot testbed colours runs/real/problems
	$(BIN)/attcot measure $(REAL) runs/real/problems --format prose --max-patches 1 \
	    --max-new-tokens 96 --out runs/real/measured
	$(BIN)/attcot report runs/real/measured

lint: $(STAMP)  ## Style, format and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: $(STAMP)  ## Execute all notebooks again and store their outputs.
	$(BIN)/python scripts/notebooks.py

lab: $(STAMP)  ## Open the notebooks in JupyterLab.
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

numbers: $(STAMP)  ## Compare every number of README and docs with the results that ship.
	$(BIN)/python scripts/check_numbers.py

docs: $(STAMP)  ## The documentation as a site that opens from build/site/index.html; links checked.
	$(BIN)/pip install -q --no-compile -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean
	$(BIN)/python scripts/check_site.py build/site

wheel: $(STAMP)  ## A wheel with data, configurations and notebooks, in dist/.
	$(BIN)/pip wheel -q --no-deps -w dist .

try: $(STAMP)  ## The wheel in an empty environment: a new user's afternoon with photos of their own.
	rm -rf build/try
	$(BIN)/python scripts/try_wheel.py build/try

clean:  ## Remove caches and build products; keeps .venv and runs/.
	rm -rf build dist *.egg-info .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -print0 \
	    | xargs -0 rm -rf

# Everything a fresh machine needs: `make book` builds the book by running it, `make test` tests it; `make help` says what
# else there is. A word after ## on the line of a target or an option is its help.

PYTHON ?= python3## for the environment: 3.11 to 3.13
ACCELERATOR ?= cpu## cuda: JAX for an NVIDIA GPU
SCALE ?= quick## of chapters and experiments, as in workflow/scales
JOBS ?= 2## chapters at a time
NAME ?=## of a page, for `make chapter`
DATA ?=## for `make reproduce`, `data`, `gpu`: "name=path ...", images that are not where they are expected; it is kept
WHEELS ?=## for `make environment`: a folder that `make wheels` has filled, where there is no network but JAX for a GPU
ONLY ?=## for `make reproduce`: experiments of the scale, "X1 X2", and no more
MINUTES ?=## for `make reproduce` and `make gpu`: end in that time, with everything kept
SHARE ?=## for `make reproduce` and `make gpu`: jobs on one GPU at a time, for small networks
PYTHON_VERSION ?= 3.12## for `make wheels`: of the machine that they are for
BUILD ?=## for `make compare`: the folder of another build
PROFILE ?=## for `make reproduce`: a cluster's, as in workflow/profiles

ifeq ($(ACCELERATOR),cuda)
  VENV := .venv-cuda
  LOCK := requirements/requirements-cuda.lock
else ifeq ($(ACCELERATOR),cpu)
  VENV := .venv
  LOCK := requirements/requirements.lock
else
  $(error ACCELERATOR must be cpu or cuda, not $(ACCELERATOR))
endif

BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONWARNINGS ?= ignore::DeprecationWarning
export XLA_PYTHON_CLIENT_PREALLOCATE ?= false
# Compiled functions are kept from one process to the next.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/_build/jax-cache
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0.2

PYTEST := KDLIB_RECORDS="$(CURDIR)/_build/test-records" KDLIB_LOCK=$(LOCK) python -m pytest -n $(JOBS) --dist loadfile

.DEFAULT_GOAL := book
.PHONY: help book chapter serve compare pdf fuzz kills check types test test-cluster reproduce data accept environment wheels torch outputs results browser lint notebook-diffs \
  gpu benchmark benchmark-ntk benchmark-engines benchmark-bfloat16 certified lock clean

help: ## this list
	@echo "make TARGET [OPTION=VALUE ...]"; echo
	@sed -n 's/^\([a-z][a-z0-9-]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r name text; do printf '  %-20s%s\n' "$$name" "$$text"; done
	@echo; echo "Options:"
	@sed -n 's/^\([A-Z_]*\) ?= *\(.*\)## /\1=\2\t/p' Makefile | while IFS="$$(printf '\t')" read -r name text; do printf '  %-20s%s\n' "$$name" "$$text"; done

book: environment ## execute what has changed and render the book to _build/html
	@python -m workflow.book --scale $(SCALE) --jobs $(JOBS) --lock $(LOCK)

chapter: environment ## look at one page: execute what it needs, render a preview (NAME=transfer_risk)
	@python -m workflow.book --scale $(SCALE) --jobs $(JOBS) --lock $(LOCK) --chapter "$(NAME)"

check: environment ## the short round: lint, types, fast tests (two minutes)
	@ruff check . && ruff format --check .
	@$(MAKE) --no-print-directory types
	@$(PYTEST) -m "not slow and not cluster" tests

types: environment ## the types of kdlib
	@basedpyright --pythonpath $(BIN)/python

test: book browser ## everything: lint, types, library, notebooks, rendered pages in a browser without a network
	@ruff check . && ruff format --check .
	@$(MAKE) --no-print-directory types
	@$(PYTEST) tests

# Counts of what was refused, and of what must not happen: a wrong value accepted, a foreign traceback, a hang.
fuzz: environment ## wrong input by the thousand: calls, parameters, damaged files (3 minutes)
	@python tests/fuzz.py

kills: environment ## a campaign killed thirty times, against one left alone (15 minutes)
	@python tests/kills.py

test-cluster: environment ## a job on a Slurm of this machine's own (root; it starts daemons and puts back what it changes)
	@$(PYTEST) -n 0 -m cluster tests/cluster

# Killed, it goes on where it was.
reproduce: environment ## the papers' experiments at a scale: trainings, kernels, tables
	@python -m workflow.reproduce --scale $(SCALE) $(if $(filter file,$(origin JOBS)),,--jobs $(JOBS)) --lock $(LOCK) \
	  $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SHARE),--share $(SHARE)) $(if $(ONLY),--only $(ONLY)) $(if $(PROFILE),--profile "$(PROFILE)" --retries 3) $(if $(DATA),--data $(DATA))

data: environment ## fetch and verify a scale's images, for compute nodes without a network
	@python -m workflow.fetch --scale $(SCALE) $(if $(DATA),--data $(DATA))

accept: environment ## keep finished trainings over a change of code, where a repeat of each kind is the same to the bit
	@python -m workflow.accept --scale $(SCALE)

# The environment, from the hashed lock. uv where there is one, pip where not.
environment: $(VENV)/.installed ## the environment in .venv, from the hashed lock
$(VENV)/.installed: $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Python 3.11 to 3.13 is needed, this is {v[0]}.{v[1]}: make PYTHON=python3.12")'
	@echo "Making the environment in $(VENV) (about 1 GB)"
	@if [ -n "$(WHEELS)" ]; then \
	  { [ -x $(BIN)/python ] || $(PYTHON) -m venv --system-site-packages $(VENV); } && \
	  $(BIN)/python -m pip install --quiet --no-index --no-deps --require-hashes --find-links "$(WHEELS)" -r "$(WHEELS)/requirements.txt" && \
	  $(BIN)/python -m pip install --quiet --no-index --no-deps "$(WHEELS)"/connection_pool*.whl && \
	  $(BIN)/python -m pip install --quiet --no-index --no-deps --no-build-isolation -e . ; \
	elif command -v uv >/dev/null 2>&1; then \
	  { [ -x $(BIN)/python ] || uv venv --quiet --python "$(PYTHON)" $(VENV); } && \
	  uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes $(LOCK) && \
	  uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e . ; \
	else \
	  { [ -x $(BIN)/pip ] || $(PYTHON) -m venv $(VENV); } && \
	  $(BIN)/python -m pip install --quiet --no-deps --require-hashes -r $(LOCK) && \
	  $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e . ; \
	fi
	@touch $@

wheels: environment ## what the experiments need besides JAX, for a machine without a network (PYTHON_VERSION=3.12)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	@python -m workflow.wheels wheels --lock $(LOCK) --python-version $(PYTHON_VERSION)

torch: environment ## PyTorch on the CPU, for train(engine="torch") (the environment works without it)
	@$(BIN)/python -c 'import torch' 2>/dev/null || { \
	  $(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null; \
	  $(BIN)/python -m pip install --quiet -r requirements/torch.txt; }
	@$(BIN)/python -c 'import torch; print("PyTorch", torch.__version__)'

browser: environment ## a browser for the tests of the rendered pages
	@python tests/browser.py --install

outputs: book ## execute the chapters and store their outputs in book/, which is what the tests compare with
	@python -m workflow.store_outputs --scale $(SCALE)

compare: environment ## which verdicts, numbers and figures differ from another build's (BUILD=path/to/_build/quick)
	@[ -n "$(BUILD)" ] || { echo "say which: make compare BUILD=path/to/_build/quick"; exit 2; }
	@python -m workflow.compare --scale $(SCALE) "$(BUILD)"

serve: book ## read the book in a browser (http://localhost:8000)
	@echo "http://localhost:8000/book/index.html; end with Ctrl-C"; python -m http.server 8000 --bind 127.0.0.1 --directory _build/html >/dev/null 2>&1

pdf: book browser ## the whole book as a PDF, in _build/book.pdf
	@python -m workflow.pdf

# Of chapters after `make book SCALE=...`, of experiments after `make reproduce SCALE=...`.
results: environment ## keep a scale's tables, with their provenance, for readers who cannot run it
	@[ -e _build/$(SCALE)/records/runs.csv ] || ! grep -q '^campaign:' workflow/scales/$(SCALE).yaml || python -m workflow.reproduce --scale $(SCALE) --so-far
	@python -m workflow.tables --publish $(SCALE)

lint: environment ## mend what ruff can mend
	@ruff check --fix . && ruff format .

# nbdime stays out of the lock: what it brings makes every start of papermill and jupyter-book slower by seconds.
notebook-diffs: ## let `git diff` show notebooks readably in this clone (.gitattributes)
	@[ -x .venv-peers/nbdime/bin/nbdime ] || { $(PYTHON) -m venv .venv-peers/nbdime && .venv-peers/nbdime/bin/python -m pip install --quiet nbdime==4.0.4; }
	@git config diff.jupyternotebook.command '"$(CURDIR)/.venv-peers/nbdime/bin/git-nbdiffdriver" diff --ignore-outputs --ignore-metadata'

# In the order in which a machine that is lent for a while is best used; all of it goes on where it was.
gpu: environment ## on a GPU (ACCELERATOR=cuda), in MINUTES: agreement with the CPU, throughput, the kernel benchmark, then the scale core
	@python -m workflow.gpu --lock $(LOCK) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SHARE),--share $(SHARE)) $(if $(DATA),--data $(DATA))

# Each peer in an environment of its own (PyTorch alone is large).
benchmark-ntk: environment ## the NTK engine against its peers
	@for peer in neural_tangents torch; do \
	  [ -x .venv-peers/$$peer/bin/python ] || { $(PYTHON) -m venv .venv-peers/$$peer && \
	  .venv-peers/$$peer/bin/python -m pip install --quiet $$([ $$peer = torch ] || echo --no-deps) -r benchmarks/peers/$$peer.txt; }; done
	@python benchmarks/ntk.py

certified: environment ## certified complexities at sizes where the Gram does not fit (20 minutes on two cores)
	@python benchmarks/certified.py

benchmark-engines: torch ## training by JAX and by PyTorch, side by side
	@python benchmarks/engines.py

benchmark-bfloat16: environment ## kernels in bfloat16 arithmetic
	@python benchmarks/bfloat16.py

benchmark: environment ## the path over n, and training
	@python benchmarks/path_over_n.py && python benchmarks/training.py

# The old ones go first: uv reads them as preferences.
lock: ## new locks from requirements/*.in (needs uv)
	@cd requirements && rm -f *.lock && for name in requirements requirements-cuda; do \
	  uv pip compile $$name.in --excludes excludes.txt --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-annotate --no-emit-index-url --no-emit-find-links --quiet -o $$name.lock || exit 1; done

clean: ## remove all that was built
	rm -rf _build .snakemake

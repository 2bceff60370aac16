# Everything a fresh machine needs: `make book` builds the book by running it, `make test` tests it.
# Options: ACCELERATOR=cuda (JAX for an NVIDIA GPU), SCALE=quick, PYTHON=python3.12, JOBS=2 (chapters at a time), and for
# `make reproduce` DATA="name=path ..." (images that are not where they are expected) and PROFILE (of a cluster).

PYTHON ?= python3
ACCELERATOR ?= cpu
SCALE ?= quick
JOBS ?= 2
DATA ?=
PROFILE ?=

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

.PHONY: book test reproduce environment outputs results browser lint benchmark benchmark-ntk benchmark-bfloat16 certified lock clean

book: environment
	@python -m workflow.book --scale $(SCALE) --jobs $(JOBS) --lock $(LOCK)

test: book browser
	@ruff check . && ruff format --check .
	@KDLIB_RECORDS=$(CURDIR)/_build/test-records KDLIB_LOCK=$(LOCK) python -m pytest -n $(JOBS) --dist loadfile --nbval-lax --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg

# The papers' experiments at a scale: trainings, kernels, tables. Killed, it goes on where it was.
reproduce: environment
	@python -m workflow.reproduce --scale $(SCALE) --jobs $(JOBS) --lock $(LOCK) $(if $(PROFILE),--profile $(PROFILE) --retries 3) $(if $(DATA),--data $(DATA))

# The environment, from the hashed lock. uv where there is one, pip where not.
environment: $(VENV)/.installed
$(VENV)/.installed: $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Python 3.11 to 3.13 is needed, this is {v[0]}.{v[1]}: make PYTHON=python3.12")'
	@echo "Making the environment in $(VENV) (about 1 GB)"
	@if command -v uv >/dev/null 2>&1; then \
	  { [ -x $(BIN)/python ] || uv venv --quiet --python "$(PYTHON)" $(VENV); } && \
	  uv pip sync --quiet --python $(BIN)/python --require-hashes $(LOCK) && \
	  uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e . ; \
	else \
	  { [ -x $(BIN)/pip ] || $(PYTHON) -m venv $(VENV); } && \
	  $(BIN)/python -m pip install --quiet --no-deps --require-hashes -r $(LOCK) && \
	  $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e . ; \
	fi
	@touch $@

# A browser for the tests of the rendered pages.
browser: environment
	@python tests/browser.py --install

# Execute the chapters and store their outputs in book/, which is what nbval compares with.
outputs: book
	@python -m workflow.store_outputs $(filter-out %.failed.ipynb %.partial.ipynb,$(wildcard _build/$(SCALE)/notebooks/[0-9][0-9]_*.ipynb))
	@python -m workflow.book --scale $(SCALE) --lock $(LOCK) --touch >/dev/null 2>&1

# Keep a scale's tables, with their provenance, for readers who cannot run it: of chapters after `make book SCALE=...`, of
# experiments after `make reproduce SCALE=...`.
results: environment
	@mkdir -p results/$(SCALE) && cp _build/$(SCALE)/records/*.csv results/$(SCALE)/ && ls results/$(SCALE)

lint: environment
	@ruff check --fix . && ruff format .

# The NTK engine against its peers, each in an environment of its own (PyTorch alone is large); `make benchmark-ntk`.
benchmark-ntk: environment
	@for peer in neural_tangents torch; do \
	  [ -x .venv-peers/$$peer/bin/python ] || { $(PYTHON) -m venv .venv-peers/$$peer && \
	  .venv-peers/$$peer/bin/python -m pip install --quiet $$([ $$peer = torch ] || echo --no-deps) -r benchmarks/peers/$$peer.txt; }; done
	@python benchmarks/ntk.py

# Certified supervision complexities of a finite network at sizes where its Gram does not fit: 20 minutes on two cores.
certified: environment
	@python benchmarks/certified.py

benchmark-bfloat16: environment
	@python benchmarks/bfloat16.py

benchmark: environment
	@python benchmarks/path_over_n.py && python benchmarks/training.py

# New locks from requirements/*.in. The old ones go first: uv reads them as preferences.
lock:
	@cd requirements && rm -f *.lock && for name in requirements requirements-cuda; do \
	  uv pip compile $$name.in --excludes excludes.txt --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-annotate --no-emit-index-url --no-emit-find-links --quiet -o $$name.lock || exit 1; done

clean:
	rm -rf _build .snakemake

# `make run` goes from a fresh clone to results, `make test` runs the tests; `make help` lists all.

CONFIG ?= params/default.yaml
CORES ?= all
TESTS ?= tests
KILLS ?= 50

BIN := .venv/bin
# Jobs call `splitcodec`, which must be found as it is in an activated environment.
IN_VENV := PATH="$(CURDIR)/$(BIN):$$PATH"
INSTALLED := .venv/installed

# Without its cache Python would compile torch and transformers anew in each of many short processes.
unexport PYTHONDONTWRITEBYTECODE

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup run rehearse test docs slurm-test server-test dvc-test faults pull lint clean-results unlock

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo 'CONFIG=params/my.yaml chooses the experiment, CORES=4 how many cores it may use, SEEDS=3 how many seeds.'

setup: $(INSTALLED) ## create .venv with the pinned packages, if that is still to be done

run: setup ## run the experiment of CONFIG on CORES cores, then print its results
	@test -f '$(CONFIG)' || { echo "error: there is no $(CONFIG); CONFIG names a params file, such as $$(ls params/*.yaml | paste -sd ' ')"; exit 1; }
	@$(IN_VENV) snakemake --logger splitcodec --rerun-incomplete --cores $(CORES) --configfile $(CONFIG) \
	  $(if $(SEEDS),--config "seeds=[$$(seq -s, 0 $$(($(SEEDS) - 1)))]") \
	  || { ls .snakemake/locks/* > /dev/null 2>&1 && echo 'If no other run is under way, a killed one left its lock: make unlock'; exit 1; }
	@experiment=$$($(BIN)/python -c 'import sys, yaml; print(yaml.safe_load(open(sys.argv[1]))["experiment"])' $(CONFIG)) \
	  && $(BIN)/splitcodec summary "results/$$experiment"

rehearse: setup ## run CONFIG in small, on random models, to see that all of it works
	@$(BIN)/splitcodec rehearse $(CONFIG) --out results/rehearsal.yaml
	@$(MAKE) --no-print-directory run CONFIG=results/rehearsal.yaml

test: setup ## run the tests, or those in TESTS, on all cores
	@OMP_NUM_THREADS=1 $(IN_VENV) pytest -n auto --dist loadfile --no-loadscope-reorder --durations=10 $(TESTS)

# Its packages are few and stand apart: references are made from the code without importing torch.
docs: .venv-docs/installed ## build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet && echo 'open site/index.html'

.venv-docs/installed: requirements-docs.txt
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'python3 must be 3.11 or newer'; exit 1; }
	@python3 -m venv .venv-docs
	@.venv-docs/bin/python -m pip install --quiet --no-input --disable-pip-version-check --requirement $<
	@touch $@

slurm-test: setup ## bring up a Slurm of one node (as root) and run the workflow on it
	@OMP_NUM_THREADS=1 $(IN_VENV) pytest tests/slurm/check_cluster.py

server-test: setup ## kill an MLflow server on PostgreSQL (which must be installed) under load
	@$(IN_VENV) pytest tests/server/check_server.py

dvc-test: setup ## make versions of a small experiment with DVC, and change it, in two clones
	@OMP_NUM_THREADS=1 $(IN_VENV) pytest tests/versions/check_dvc.py

faults: setup ## kill a small run KILLS times, hurt it otherwise, and compare the results
	@OMP_NUM_THREADS=1 $(IN_VENV) python benchmarks/faults.py --kills $(KILLS)

# A directory, unlike a file, is not compared by content: what was pulled must not look new.
pull: setup ## fetch the versions of data and results that dvc.lock names
	@$(IN_VENV) dvc pull
	@find data/models -exec touch --date=@0 {} +

lint: setup ## check style, layers, workflow and params files
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/snakefmt --check Snakefile workflow
	@$(BIN)/lint-imports --no-logo --no-cache
	@$(IN_VENV) snakemake --lint
	@for params in params/*.yaml; do \
	  echo "dry run of $$params"; \
	  $(IN_VENV) snakemake --dry-run --rerun-incomplete --logger splitcodec --quiet rules --configfile "$$params"; \
	done

clean-results: ## delete results and MLflow's store; data and .venv stay
	rm -rf results mlflow.db mlartifacts mlruns

unlock: setup ## remove the lock that a killed run has left
	@$(IN_VENV) snakemake --unlock --cores 1

# Most modules are never imported: those that are get compiled then. pip's whole output goes to a
# file; of it are shown what failed, and now and then how far it is.
PIP_INSTALL := $(BIN)/python -m pip install --no-input --no-compile --disable-pip-version-check
SHORTLY := | tee -a .venv/install.log | awk '\
  /^Collecting/ && ++n % 25 == 0 { print "  " n " packages collected"; fflush() } \
  /^Installing collected/ && n > 1 { print "  installing " n " packages"; fflush() } \
  /^ERROR/ { print; print "  see .venv/install.log"; fflush() }'

# The stamp is newer than what it was made from only if all of it has been installed.
$(INSTALLED): requirements.lock requirements-cpu.lock requirements-cuda.lock pyproject.toml
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || { \
	  for python in python3.11 python3.12 python3.13 python3 ''; do \
	    test -z "$$python" && { echo 'Python 3.11 or newer with venv is needed; install it (Debian: apt-get install python3 python3-venv)'; exit 1; }; \
	    $$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null && break; \
	  done; \
	  echo "creating .venv with $$($$python --version)"; \
	  $$python -m venv .venv; \
	}
	@echo 'installing the packages of requirements.lock (one to three minutes the first time)'
	@: > .venv/install.log
	@$(PIP_INSTALL) --upgrade pip==26.3 2>&1 $(SHORTLY)
	@command -v nvidia-smi > /dev/null || { \
	  echo '  no GPU here: looking for the build of torch for processors'; \
	  $(PIP_INSTALL) --no-deps --require-hashes --retries 0 --timeout 15 \
	    --requirement requirements-cpu.lock >> .venv/install.log 2>&1 || echo '  it is not to be had: that of PyPI will do'; \
	}
	@$(PIP_INSTALL) --no-deps --require-hashes --requirement requirements.lock 2>&1 $(SHORTLY)
	@if $(BIN)/python deploy/torch_is_cuda.py; then \
	  $(PIP_INSTALL) --no-deps --require-hashes --requirement requirements-cuda.lock 2>&1 $(SHORTLY); \
	fi
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable . 2>&1 $(SHORTLY)
	@touch $@

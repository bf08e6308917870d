# Every target is one documented command in the environment of .venv; `make` alone lists them. Linux, Python 3.11 or 3.12.
# Own indexes or wheels: pip's settings are used as they are. More extras: `make setup EXTRAS=alfworld,webshop,dev,sciworld`.
.DEFAULT_GOAL := help
.PHONY: help setup run smoke flow params ui bench test test-all lint format clean

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3)
EXTRAS ?= alfworld,webshop,dev
ARGS ?=
INSTALLED := .venv/.installed-$(EXTRAS)
SMOKE := .work/smoke
# Not by PATH, which a colon in the folder's name would cut, and relative: no character of that name reaches a shell.
PY := .venv/bin/python
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DO_NOT_TRACK ?= 1
export MLFLOW_DISABLE_TELEMETRY ?= true
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION ?= false
export PREFECT_HOME ?= $(CURDIR)/.prefect

help:  ## what there is
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(INSTALLED)  ## install everything into .venv; nothing happens when nothing changed

$(INSTALLED): pyproject.toml constraints.txt
	@echo "installing into .venv: minutes the first time, seconds later"
	@test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install -qq -c constraints.txt -e '.[$(EXTRAS)]'
	@touch '$@'

run: setup  ## the pipeline: what is out of date runs, then the table of results; ARGS go to `dvc repro`
	$(PY) -m tasks.pipeline $(ARGS)

smoke: setup  ## the pipeline in minutes: presets/smoke.yaml in a copy, .work/smoke; your data stays
	@git rev-parse --git-dir >/dev/null 2>&1 || { echo "make smoke copies what git knows, and here is no git;" \
	  "run: git init && git add --all && git commit --message start"; exit 2; }
	@rm -rf $(SMOKE) && mkdir -p $(SMOKE)
	@git ls-files -coz --exclude-standard | tar -c --null -T - --ignore-failed-read 2>/dev/null | tar -x -C $(SMOKE)
	@rm -f $(SMOKE)/dvc.lock && printf '[core]\n    no_scm = true\n' > $(SMOKE)/.dvc/config.local
	cp presets/smoke.yaml $(SMOKE)/params.yaml && python="$$PWD/$(PY)" && cd $(SMOKE) && "$$python" -m tasks.pipeline $(ARGS)

flow: setup  ## the same pipeline under Prefect (its own temporary server unless PREFECT_API_URL is set)
	$(PY) -m flows.pipeline $(ARGS)

params: setup  ## every setting with its value, unit, allowed values and meaning; one section: ARGS=explore
	$(PY) -m tasks.params $(ARGS)

ui: setup  ## MLflow's pages about all runs, at http://127.0.0.1:5000
	@$(PY) -m tasks.experiments.store
	$(PY) -m mlflow ui --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}" --host 127.0.0.1 $(ARGS)

bench: setup  ## speed against other ways to do the same work, as ratios; writes benchmarks/results/<date>.json
	$(PY) -m benchmarks $(ARGS)

test: setup  ## all tests but the slow ones
	$(PY) -m pytest -m "not slow" $(ARGS)

test-all: setup  ## all tests
	$(PY) -m pytest $(ARGS)

lint: setup  ## style, types, and who may import whom
	$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy && lint-imports

format: setup  ## bring the code into shape
	$(PY) -m ruff check --fix . ; $(PY) -m ruff format .

clean:  ## remove working folders and caches; data, runs and .venv stay
	rm -rf .work .torch_ext .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist

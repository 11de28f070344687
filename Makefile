# Each target installs what it needs. Debian only needs python3, python3-venv and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORPUS ?= synthetic
TO ?= demo
# Tests start many processes. With .pyc files, they need not compile unchanged modules again.
export PYTHONDONTWRITEBYTECODE :=

# Python compiles what is imported when it is imported first: a small part of what is installed.
QUIETLY := --quiet --disable-pip-version-check --no-compile

.DEFAULT_GOAL := help
ESC10 ?= ../shared/data/esc10
# Run two files of tests at once: most of their time is waiting for Ray to start.
TWO_AT_ONCE := -n 2 --dist loadfile --no-loadscope-reorder
# Each run prints its slowest tests, and writes the cost of all tests to a file for `make costs`.
COST = --durations=25 --junitxml=build/tests/$@.xml

.PHONY: help setup demo test test-slow test-browser test-all costs check-costs dashboard check-dashboard bench-ingest bench-train bench-serve bench-label bench-gpu \
  bench-float16 esc10 lint lint-types lint-rules format clean

help:  ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready  ## Make a virtual environment in .venv with the pinned dependencies

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "audiocnn needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) \
	  || { echo "no virtual environment could be made: apt-get install python3-venv"; exit 2; }
	@echo "installing the pinned dependencies into $(VENV) (some minutes, once)"
	@$(BIN)/pip install $(QUIETLY) -r requirements.lock
	@$(BIN)/pip install $(QUIETLY) --no-deps --editable .
	@$(BIN)/python -c 'from pipelines.tools.doctor import mend_torchaudio; mend_torchaudio()'
	@touch $@

demo: setup  ## Run all steps on a corpus; CORPUS=path or esc50, TO=folder
	@$(BIN)/audiocnn demo "$(CORPUS)" --to "$(TO)"

test: lint  ## Lint and the default tests; with real recordings if ../shared/data is there
	$(BIN)/pytest $(TWO_AT_ONCE) $(COST) --ignore tests/contract/test_house.py

test-slow: $(VENV)/.bench $(VENV)/label-studio/.ready  ## Tests that kill jobs or run whole commands
	$(BIN)/pytest $(TWO_AT_ONCE) $(COST) -m 'slow and not thorough'

test-browser: $(VENV)/.browser check-dashboard  ## Tests of the dashboard; needs an installed Chromium
	$(BIN)/pytest $(COST) -m browser

# tests/README.md lists the tests that only this target runs.
test-all: lint $(VENV)/.bench $(VENV)/label-studio/.ready $(VENV)/.browser dashboard  ## All tests
	$(BIN)/pytest $(TWO_AT_ONCE) $(COST) --thorough -m 'not browser'
	$(BIN)/pytest --thorough -m browser

costs: setup  ## Write tests/costs.md from the last runs of test, test-slow and test-browser
	$(BIN)/python tests/helpers/costs.py --write

check-costs: setup  ## Fail if tests cost a quarter more than in tests/costs.md
	$(BIN)/python tests/helpers/costs.py

# The built page in serve/page must belong to the source. It is only built again if a hash of both
# differs from the one that `make dashboard` wrote.
PAGE_HASH = { git ls-files --cached --others --exclude-standard serve/dashboard serve/page; \
  echo serve/dashboard/openapi.json; } | LC_ALL=C sort | tr "\n" "\0" \
  | xargs -0 sha256sum 2> /dev/null | sha256sum

check-dashboard: setup
	@$(BIN)/python -m serve.api.app > serve/dashboard/openapi.json
	@test "$$($(PAGE_HASH))" = "$$(cat serve/page.sha256)" || $(MAKE) dashboard
	@test -z "$$(git status --porcelain serve/page serve/page.sha256 serve/dashboard)" \
	  || { git status --short serve/page serve/page.sha256 serve/dashboard; \
	       echo "commit what make dashboard built"; exit 2; }

$(VENV)/.browser: $(VENV)/.ready
	@$(BIN)/pip install $(QUIETLY) -c requirements.lock \
	  --editable '.[browser]'
	@touch $@

$(VENV)/.bench: $(VENV)/.ready
	@echo "installing the peers that benchmarks compare with (once)"
	@$(BIN)/pip install $(QUIETLY) -c requirements.lock \
	  --editable '.[bench]'
	@touch $@

bench-ingest: $(VENV)/.bench  ## Speed and memory of ingest, and of its peers: ten minutes
	$(BIN)/python -m benchmarks.ingest

bench-train: setup  ## Speed and memory of training, and of plain loops: a quarter of an hour
	$(BIN)/python -m benchmarks.train

# Separate environments that also see the packages of .venv. BentoML's packages conflict with Ray's.
# Label Studio's SDK depends on 250 MB of packages, and only a few are needed to check files.
LABEL_STUDIO := label-studio-sdk==2.0.19 jsf==0.11.2 Faker==40.63.0 rstr==3.2.2 lxml==6.1.3 \
  xmljson==0.2.1 PyJWT==2.15.1 appdirs==1.4.4
SITE = -c 'import site; print(site.getsitepackages()[0])'

$(VENV)/bentoml/.ready: $(VENV)/.bench
	@$(BIN)/python -m venv $(VENV)/bentoml
	@$(VENV)/bentoml/bin/pip install $(QUIETLY) 'bentoml>=1.4.40,<1.5'
	@$(BIN)/python $(SITE) > $$($(VENV)/bentoml/bin/python $(SITE))/zz_main.pth
	@touch $@

$(VENV)/label-studio/.ready: $(VENV)/.ready
	@$(BIN)/python -m venv $(VENV)/label-studio
	@$(VENV)/label-studio/bin/pip install $(QUIETLY) --no-deps $(LABEL_STUDIO)
	@$(BIN)/python $(SITE) > $$($(VENV)/label-studio/bin/python $(SITE))/zz_main.pth
	@touch $@

bench-serve: $(VENV)/bentoml/.ready  ## Speed of the endpoint, and of its peers: a quarter of an hour
	$(BIN)/python -m benchmarks.serve

# This environment sees the packages of .venv and does not install them again; 171 MB.
$(VENV)/transformers/.ready: $(VENV)/.bench
	@$(BIN)/python -m venv $(VENV)/transformers
	@$(BIN)/python $(SITE) > $$($(VENV)/transformers/bin/python $(SITE))/zz_main.pth
	@$(VENV)/transformers/bin/pip install $(QUIETLY) 'transformers>=5.24,<6'
	@touch $@

bench-label: $(VENV)/transformers/.ready  ## Speed of labelling, and of its peers: twenty minutes
	$(BIN)/python -m benchmarks.label
	$(BIN)/python -m benchmarks.listings

bench-gpu: setup  ## Checks on a GPU, and speed of training there
	$(BIN)/python -m benchmarks.gpu

esc10: setup  ## Repeat the accuracy of docs/accuracy.md: ESC-10, five folds; ESC10=path
	$(BIN)/audiocnn ingest "$(ESC10)" --to esc10/features
	$(BIN)/audiocnn evaluate esc10/features --to esc10/report

bench-float16: setup  ## Effect of float16 features on accuracy: ten minutes
	$(BIN)/python -m benchmarks.float16

# This needs Node 20 or newer. Users of audiocnn need no Node: serve/page has the built page.
dashboard: setup  ## Build the dashboard's page again
	cd serve/dashboard && npm ci --no-audit --no-fund --loglevel=error
	$(BIN)/python -m serve.api.app > serve/dashboard/openapi.json
	cd serve/dashboard && npm run --silent types && npm run --silent check \
	  && NEXT_TELEMETRY_DISABLED=1 npm run --silent build
	rm -rf serve/page && mkdir serve/page
	cp -r serve/dashboard/out/index.html serve/dashboard/out/_next serve/page/
	@$(PAGE_HASH) > serve/page.sha256

lint: setup  ## ruff, mypy, and tests/contract/test_house.py
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint-types lint-rules

lint-types: setup
	$(BIN)/mypy

lint-rules: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest tests/contract/test_house.py

format: setup  ## Format the code with ruff
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove the demo's output and caches
	rm -rf demo esc10 .mypy_cache .pytest_cache .ruff_cache

# Every target sets up what it needs by itself. Debian: python3, python3-venv and make suffice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORPUS ?= synthetic
TO ?= demo
# Tests start many processes: these need not compile again what has not changed.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
ESC10 ?= ../shared/data/esc10
# Files of tests side by side: what they wait for is mostly Ray's start.
TWO_AT_ONCE := -n 2 --dist loadfile --no-loadscope-reorder
# Each run says what its tests cost, to people and, for `make costs`, to a file.
COST = --durations=25 --junitxml=build/tests/$@.xml

.PHONY: help setup demo test test-slow test-browser test-all costs check-costs dashboard check-dashboard bench-ingest bench-train bench-serve bench-label bench-gpu \
  bench-float16 esc10 lint lint-types lint-rules format clean

help:  ## What can be made
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready  ## Virtual environment in .venv with the pinned dependencies

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "audiocnn needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) \
	  || { echo "no virtual environment could be made: apt-get install python3-venv"; exit 2; }
	@echo "installing the pinned dependencies into $(VENV) (some minutes, once)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true  # pip would use one core
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@$(BIN)/python -c 'from pipelines.tools.doctor import mend_torchaudio; mend_torchaudio()'
	@touch $@

demo: setup  ## The whole line; CORPUS=path or esc50, TO=folder
	@$(BIN)/audiocnn demo "$(CORPUS)" --to "$(TO)"

test: lint  ## Lint and the default tests; real recordings where ../shared/data is
	$(BIN)/pytest $(TWO_AT_ONCE) $(COST) --ignore tests/contract/test_house.py

test-slow: $(VENV)/.bench $(VENV)/label-studio/.ready  ## Kills and whole commands
	$(BIN)/pytest $(TWO_AT_ONCE) $(COST) -m 'slow and not thorough'

test-browser: $(VENV)/.browser check-dashboard  ## The dashboard in Chromium, which must be there
	$(BIN)/pytest $(COST) -m browser

# See tests/README.md for what it adds.
test-all: lint $(VENV)/.bench $(VENV)/label-studio/.ready $(VENV)/.browser dashboard  ## Everything
	$(BIN)/pytest $(TWO_AT_ONCE) $(COST) --thorough -m 'not browser'
	$(BIN)/pytest --thorough -m browser

costs: setup  ## Write tests/costs.md anew, from the last runs of test, test-slow and test-browser
	$(BIN)/python tests/helpers/costs.py --write

check-costs: setup  ## Fail where tests cost a quarter more than tests/costs.md says
	$(BIN)/python tests/helpers/costs.py

# What was built from the source that is here is what is kept. It is not built again where a hash of
# both is the one that `make dashboard` wrote.
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
	@$(BIN)/pip install --quiet --disable-pip-version-check -c requirements.lock \
	  --editable '.[browser]'
	@touch $@

$(VENV)/.bench: $(VENV)/.ready
	@echo "installing the peers that benchmarks compare with (once)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c requirements.lock \
	  --editable '.[bench]'
	@touch $@

bench-ingest: $(VENV)/.bench  ## Speed and memory of ingest, and of its peers: ten minutes
	$(BIN)/python -m benchmarks.ingest

bench-train: setup  ## Speed and memory of training, and of plain loops: a quarter of an hour
	$(BIN)/python -m benchmarks.train

# Environments of their own, which see this one: BentoML wants other packages than Ray does, and of
# what Label Studio's SDK depends on, a quarter of a gigabyte, checking files needs little.
LABEL_STUDIO := label-studio-sdk==2.0.19 jsf==0.11.2 Faker==40.63.0 rstr==3.2.2 lxml==6.1.3 \
  xmljson==0.2.1 PyJWT==2.15.1 appdirs==1.4.4
SITE = -c 'import site; print(site.getsitepackages()[0])'

$(VENV)/bentoml/.ready: $(VENV)/.bench
	@$(BIN)/python -m venv $(VENV)/bentoml
	@$(VENV)/bentoml/bin/pip install --quiet --disable-pip-version-check 'bentoml>=1.4.40,<1.5'
	@$(BIN)/python $(SITE) > $$($(VENV)/bentoml/bin/python $(SITE))/zz_main.pth
	@touch $@

$(VENV)/label-studio/.ready: $(VENV)/.ready
	@$(BIN)/python -m venv $(VENV)/label-studio
	@$(VENV)/label-studio/bin/pip install --quiet --disable-pip-version-check --no-deps $(LABEL_STUDIO)
	@$(BIN)/python $(SITE) > $$($(VENV)/label-studio/bin/python $(SITE))/zz_main.pth
	@touch $@

bench-serve: $(VENV)/bentoml/.ready  ## Speed of the endpoint, and of its peers: a quarter of an hour
	$(BIN)/python -m benchmarks.serve

# What datasets and Ray brought is seen and not installed again; 171 MB.
$(VENV)/transformers/.ready: $(VENV)/.bench
	@$(BIN)/python -m venv $(VENV)/transformers
	@$(BIN)/python $(SITE) > $$($(VENV)/transformers/bin/python $(SITE))/zz_main.pth
	@$(VENV)/transformers/bin/pip install --quiet --disable-pip-version-check 'transformers>=5.24,<6'
	@touch $@

bench-label: $(VENV)/transformers/.ready  ## Speed of labelling, and of its peers: twenty minutes
	$(BIN)/python -m benchmarks.label
	$(BIN)/python -m benchmarks.listings

bench-gpu: setup  ## What must hold on a GPU, and how fast it trains there
	$(BIN)/python -m benchmarks.gpu

esc10: setup  ## The accuracy of docs/accuracy.md: ESC-10, five folds; ESC10=path
	$(BIN)/audiocnn ingest "$(ESC10)" --to esc10/features
	$(BIN)/audiocnn evaluate esc10/features --to esc10/report

bench-float16: setup  ## What float16 features cost in accuracy: ten minutes
	$(BIN)/python -m benchmarks.float16

# Node 20 or newer; who only uses audiocnn needs none, for what this builds is kept in serve/page.
dashboard: setup  ## Build the dashboard's page anew
	cd serve/dashboard && npm ci --no-audit --no-fund --loglevel=error
	$(BIN)/python -m serve.api.app > serve/dashboard/openapi.json
	cd serve/dashboard && npm run --silent types && npm run --silent check \
	  && NEXT_TELEMETRY_DISABLED=1 npm run --silent build
	rm -rf serve/page && mkdir serve/page
	cp -r serve/dashboard/out/index.html serve/dashboard/out/_next serve/page/
	@$(PAGE_HASH) > serve/page.sha256

lint: setup  ## ruff, mypy, and the rules of the house
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint-types lint-rules

lint-types: setup
	$(BIN)/mypy

lint-rules: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest tests/contract/test_house.py

format: setup  ## Write the code as ruff does
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove the demo's output and caches
	rm -rf demo esc10 .mypy_cache .pytest_cache .ruff_cache

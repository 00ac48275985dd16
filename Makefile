PYTHON ?= python3
BIN := .venv/bin
# tests start many processes: each compiles a file only if nobody has before
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo gpu test test-fast test-slow versions axe browser screenshots reliability test-all coverage check format audit demo-files lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup: .venv/ready  ## make .venv from the lock file

.venv/ready: pyproject.toml requirements.lock requirements-torch.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 13) else "uedpo needs Python 3.11 or 3.12, this is %d.%d: make PYTHON=python3.11" % v)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --require-hashes --no-deps --requirement requirements.lock
	$(BIN)/pip install --quiet --no-compile --requirement requirements-torch.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	$(BIN)/pip check
	@$(BIN)/python -m compileall -q -j 0 .venv/lib > /dev/null || true  # on all cores; pip uses one
	@touch $@

demo: setup  ## train UE-DPO on the micro-world and write the report (minutes, CPU)
	$(BIN)/python -m uedpo.run

gpu: setup  ## check and measure on one GPU (at most 8 minutes; experiments/gpu/README.md)
	$(BIN)/python experiments/gpu/run.py

# a file stays on one worker, with its fixtures; files start in the order of tests/conftest.py
WORKERS ?= 2
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test: setup  ## run the tests, two at a time (4 minutes on two cores; WORKERS=6 for more)
	$(BIN)/python -m pytest $(PARALLEL)

test-fast: setup  ## run the unit tests, which train nothing (40 seconds on two cores)
	$(BIN)/python -m pytest $(PARALLEL) tests/unit

test-slow: setup  ## run what `make test` leaves to CI
	$(BIN)/python -m pytest $(PARALLEL) -m 'slow and not exhaustive and not gpu'

# the lock with other versions of some packages, in an environment of its own
WITH ?= torch==2.8.0 torchvision==0.23.0 transformers==5.17.0
TESTS ?= tests
OTHER := build/versions/$(subst $() ,_,$(strip $(WITH)))

versions: $(OTHER)/ready  ## run the tests with other versions: make versions WITH="torch==2.11.0 ..."
	$(OTHER)/bin/python -m pytest $(PARALLEL) $(TESTS)

$(OTHER)/ready: requirements.lock
	$(PYTHON) -m venv --clear $(OTHER)
	$(OTHER)/bin/pip install --quiet --require-hashes --no-deps --requirement requirements.lock
	$(OTHER)/bin/pip install --quiet $(WITH) --editable .
	$(OTHER)/bin/pip check
	@touch $@

AXE_VERSION := 4.14.1
AXE_SHA256 := 29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c
AXE := build/axe/package/axe.min.js

axe: $(AXE)  ## fetch axe-core, which the browser tests need, with npm

$(AXE):
	mkdir -p build/axe
	cd build/axe && npm pack --silent axe-core@$(AXE_VERSION) && tar xzf axe-core-$(AXE_VERSION).tgz
	echo "$(AXE_SHA256)  $@" | sha256sum --check --quiet || { rm -rf build/axe; exit 1; }

browser: setup axe  ## open the report in headless Chromium (needs chromium on PATH, and npm)
	UEDPO_BROWSER=required $(BIN)/python -m pytest tests/browser

build/screenshots/report.html:
	$(BIN)/python -m uedpo.run hydra.run.dir=build/screenshots

screenshots: setup build/screenshots/report.html  ## make docs/images anew (minutes; needs chromium)
	$(BIN)/python -m uedpo.report build/screenshots
	$(BIN)/python -m uedpo.explain adapter=build/screenshots/adapter output=build/screenshots/explain.html > /dev/null
	$(BIN)/python -m tests.browser.screenshots build/screenshots build/screenshots/explain.html

reliability: setup  ## the whole of docs/reliability.md: kills, signals, ranks, cost (about a quarter of an hour)
	$(BIN)/python -m pytest -m 'not gpu' tests/reliability

test-all: setup  ## run all of them, the exhaustive ones too
	$(BIN)/python -m pytest $(PARALLEL) -m 'not gpu'

OF_PURE := $(patsubst %,tests/unit/test_%.py,uncertainty token_weights corruption loss methods methods_by_hand \
  methods_refused metrics results signals)

coverage: setup  ## line coverage of the pure modules by their unit tests
	$(BIN)/python -m pytest $(PARALLEL) $(OF_PURE) --cov=uedpo.weights.uncertainty --cov=uedpo.corruption --cov=uedpo.loss --cov=uedpo.results.statistics --cov-report=term-missing --cov-fail-under=95

check: setup  ## ruff, mypy, and imports that look down
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --cache-dir build/imports

format: setup  ## let ruff format and fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

audit: setup  ## look the locked versions up among known vulnerabilities, where the network allows it
	@if ! $(BIN)/pip install --quiet --target build/audit pip-audit 2>/dev/null; then \
	  echo "audit skipped: pip-audit cannot be installed here"; exit 0; fi; \
	sed -E '/^ /d; s/ \\$$//' requirements.lock requirements-torch.lock > build/pins.txt; \
	PYTHONPATH=build/audit $(BIN)/python -m pip_audit --requirement build/pins.txt --no-deps --disable-pip > build/audit.txt 2>&1; \
	passed=$$?; all=$$(grep -c == build/pins.txt); unknown=$$(grep -c 'could not be audited' build/audit.txt); \
	if grep -q '^Found .* known vulnerabilit' build/audit.txt; then cat build/audit.txt; exit 1; \
	elif [ $$passed -ne 0 ] || [ $$unknown -eq $$all ]; then \
	  echo "audit skipped: no vulnerability database can be reached from here"; tail -n 1 build/audit.txt; \
	else echo "audit: no known vulnerability; $$unknown of $$all packages could not be looked up"; fi

demo-files: setup  ## rebuild the shipped model and pairs (about 30 minutes on 2 cores)
	$(BIN)/python -m uedpo.microworld.build model pairs

lock: setup  ## pin what .venv holds, with hashes; stops at a release younger than a week
	$(BIN)/pip install --quiet --target build/uv uv
	$(BIN)/pip freeze --exclude-editable | grep -v '^torch==' | build/uv/bin/uv pip compile --quiet --no-deps \
	  --generate-hashes --no-header --no-annotate --exclude-newer '7 days' --output-file build/lock -
	mv build/lock requirements.lock
	{ head -n 1 requirements-torch.lock; $(BIN)/pip freeze | sed -nE 's/^(torch==[0-9.]+).*/\1/p'; } > build/lock
	mv build/lock requirements-torch.lock

clean:  ## remove .venv
	rm -rf .venv

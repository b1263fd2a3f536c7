# make demo   see it work, in four minutes; PART=shop or PART=circle for one part of it
# make test   everything that must hold: style, types, tests, real servers where they can be had
# make bench  speed and memory, each beside its peer in the same run

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint docs dashboards screenshots bench lock clean

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"otel-aiops needs Python 3.11 or newer, this is {sys.version.split()[0]}; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(INSTALLED)
	@KEEP=$(KEEP) $(BIN)/python -m otel_aiops.demo $(PART)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m tests.tools
	$(BIN)/coverage erase
	$(BIN)/pytest --numprocesses 2 --dist loadfile --ignore tests/e2e --cov --cov-report= --cov-fail-under=0; first=$$?; \
		$(BIN)/pytest tests/e2e --cov --cov-append --cov-report= --cov-fail-under=0 && exit $$first
	$(BIN)/coverage report

docs: $(INSTALLED)
	$(BIN)/python -m tests.reference

dashboards: $(INSTALLED)
	$(BIN)/python -m otel_aiops.dashboards grafana

screenshots: $(INSTALLED)
	$(BIN)/python -m tests.screenshots docs/images

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

# Needs uv (https://docs.astral.sh/uv/); run it after a change of the dependencies in pyproject.toml.
lock:
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --no-annotate --quiet -o requirements.lock

clean:
	rm -rf $(VENV) .cache .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist

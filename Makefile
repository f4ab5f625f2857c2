# make demo   install, then scaler submit jobs/digits/job.yaml on two local workers
# make test   install, then the whole test suite
# make test-ray-next   the tests that need Ray, on the newest Ray that pyproject.toml admits, in a venv of their own
# make check  formatting, lint, types, import rules: what CI runs beside the tests
# make docs   write docs/job-file.md, docs/numbers.md, docs/data.md and the README's pictures anew
# make lock   resolve both lock files anew from pyproject.toml

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RAY_NEXT := .venv-ray-next

.PHONY: demo test test-ray-next check format docs lock

demo: $(VENV)/installed
	$(BIN)/scaler submit jobs/digits/job.yaml

test: $(VENV)/installed
	$(BIN)/python -m pytest

test-ray-next: $(RAY_NEXT)/installed
	$(RAY_NEXT)/bin/python -m pytest tests/cluster

check: $(VENV)/installed
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/installed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

docs: $(VENV)/installed
	$(BIN)/python docs/make_job_file_page.py
	$(BIN)/python docs/make_numbers_page.py
	$(BIN)/python docs/make_data_page.py
	$(BIN)/python docs/make_scaling_table.py
	$(BIN)/python docs/make_first_picture.py
	$(BIN)/python docs/make_report_picture.py

# Other builds of torch need packages that the lock does not name, so pip may add to it; it never changes what is in it.
$(VENV)/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

$(RAY_NEXT)/installed: requirements-ray-next.lock pyproject.toml
	$(PYTHON) -m venv $(RAY_NEXT)
	$(RAY_NEXT)/bin/pip install --quiet --requirement requirements-ray-next.lock
	$(RAY_NEXT)/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# A lock names versions, not builds: "+cpu" names the machine where it was made. The second lock differs from the first in
# Ray alone.
COMPILE = $(BIN)/pip-compile --quiet --extra dev --extra jobs --extra metrics --extra mlflow --extra optimizers --extra s3 \
	--extra wandb --strip-extras --allow-unsafe --no-header --no-emit-index-url --no-emit-find-links \
	--no-emit-trusted-host --no-emit-options
lock:
	$(BIN)/pip install --quiet pip-tools
	$(COMPILE) --constraint requirements.in --output-file requirements.lock pyproject.toml
	cp requirements.lock requirements-ray-next.lock
	$(COMPILE) --constraint requirements-ray-next.in --upgrade-package ray --output-file requirements-ray-next.lock pyproject.toml
	sed -i 's/^\(torch==[0-9.]*\)+.*/\1/' requirements.lock requirements-ray-next.lock

# make demo   install, then scaler submit jobs/digits/job.yaml on two local workers
# make test   install, then the whole test suite; PROCESSES=2 takes fewer processes
# make check  formatting, lint, types, import rules, the site: what CI runs beside the tests
# make docs   write the generated pages of docs, the files in docker and the pictures again
# make site   build the documentation as a site, in the folder site
# make wheel  build dist/scaler-VERSION-py3-none-any.whl, which the files in docker install
# make dist   build the sdist and the wheel of a release in dist, and check them with twine
# make sbom   write dist/scaler-VERSION.cdx.json: what an installed scaler consists of, in CycloneDX's format
# make lock   resolve all lock files again from pyproject.toml
#
# Beside the tests, from minutes to an hour each:
# make test-ray-next  the tests that need Ray, on the newest Ray that pyproject.toml admits
# make test-lowest    the tests that need no Ray, with the lowest versions that pyproject.toml admits
# make test-python    the whole test suite on another Python: make test-python PYTHON=python3.13
# make soak           many workers killed, and many nodes that join and leave, at random moments
# make mutants        put known faults into the code, one at a time, and show the test that finds each

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RAY_NEXT := .venv-ray-next

.PHONY: demo test test-ray-next test-lowest test-python soak mutants check format docs site wheel dist sbom lock

demo: $(VENV)/installed
	$(BIN)/scaler submit jobs/digits/job.yaml

# Three processes on two cores: tests that start Ray wait often. They are two groups (tests/conftest.py); the third
# process runs the others meanwhile.
PROCESSES ?= 3

test: $(VENV)/installed
	$(BIN)/python -m pytest -n $(PROCESSES)

LOWEST := .venv-lowest

test-lowest: $(LOWEST)/installed
	$(LOWEST)/bin/python -m pytest -n $(PROCESSES) --ignore tests/cluster --ignore tests/browser

# Each Python has an environment of its own, named after its command: .venv-python3.13. TESTS=tests/plan runs a part.
# From PyPI, torch is a build for CUDA: an environment with it takes 6 GB.
OTHER := .venv-$(notdir $(PYTHON))
TESTS ?=

test-python: $(OTHER)/installed
	$(OTHER)/bin/python -m pytest -n $(PROCESSES) $(TESTS)

soak: $(VENV)/installed
	$(BIN)/python benchmarks/chaos.py
	$(BIN)/python benchmarks/many_nodes.py
	test "$$(id -u)" != 0 || $(BIN)/python benchmarks/namespaces.py

mutants: $(VENV)/installed
	$(BIN)/python benchmarks/mutants.py

test-ray-next: $(RAY_NEXT)/installed
	$(RAY_NEXT)/bin/python -m pytest tests/cluster

check: $(VENV)/installed
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

format: $(VENV)/installed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

docs: $(VENV)/installed
	$(BIN)/python docs/make_job_file_page.py
	$(BIN)/python docs/make_numbers_page.py
	$(BIN)/python docs/make_reference_pages.py
	$(BIN)/python docs/make_data_page.py
	$(BIN)/python docs/make_scaling_table.py
	$(BIN)/python docs/make_auto_page.py
	$(BIN)/python docs/make_rules_experiments.py
	$(BIN)/python docs/make_evidence.py
	$(BIN)/python docs/make_licences_page.py
	$(BIN)/python docs/make_docker_files.py
	$(BIN)/python docs/make_experiment_picture.py
	$(BIN)/python docs/make_report_picture.py

site: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo site/index.html

wheel: $(VENV)/installed
	$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

# The tools of a release have an environment of their own: their dependencies are not scaler's.
RELEASE := .venv-release
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' scaler/__init__.py)

dist: $(RELEASE)/installed
	rm -f dist/scaler-$(VERSION)*
	$(RELEASE)/bin/python -m build --no-isolation --outdir dist .
	$(RELEASE)/bin/twine check --strict dist/scaler-$(VERSION).tar.gz dist/scaler-$(VERSION)-*.whl

sbom: $(RELEASE)/installed $(VENV)/installed
	mkdir -p dist
	$(BIN)/python docs/make_licences_page.py --lock | $(RELEASE)/bin/cyclonedx-py requirements \
		--pyproject pyproject.toml --mc-type library --output-reproducible --output-file dist/scaler-$(VERSION).cdx.json -

$(RELEASE)/installed: Makefile
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/pip install --quiet build==1.6.1 cyclonedx-bom==7.5.0 setuptools==84.2.1 twine==7.0.0
	touch $@

# tests/training/test_mup.py compares with it. Its dependencies, torchvision among them, are for its plots.
MUP := mup==1.0.0

# Other builds of torch need packages that the lock does not name, so pip may add to it; it never changes what is in it.
$(VENV)/installed $(OTHER)/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --requirement requirements.lock
	$(@D)/bin/pip install --quiet --no-deps $(MUP)
	$(@D)/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

$(RAY_NEXT)/installed: requirements-ray-next.lock pyproject.toml
	$(PYTHON) -m venv $(RAY_NEXT)
	$(RAY_NEXT)/bin/pip install --quiet --requirement requirements-ray-next.lock
	$(RAY_NEXT)/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

$(LOWEST)/installed: requirements-lowest.lock pyproject.toml
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet --requirement requirements-lowest.lock
	$(LOWEST)/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

EXTRAS := $(addprefix --extra ,abfs accelerate dev gs jobs lightning metrics mlflow optimizers s3 safetensors search\
	transformers wandb)
COMPILE := $(BIN)/pip-compile --quiet $(EXTRAS) --strip-extras --allow-unsafe --no-header --no-emit-index-url \
	--no-emit-find-links --no-emit-trusted-host --no-emit-options

# A lock names versions, not builds: "+cpu" is where it was made, and packages of CUDA belong to other builds of torch.
# requirements-ray-next.lock differs from requirements.lock in Ray alone. The lowest versions are those of what
# pyproject.toml names; what these need is the newest that fits.
lock:
	$(BIN)/pip install --quiet pip-tools uv
	$(COMPILE) --constraint requirements.in --output-file requirements.lock pyproject.toml
	cp requirements.lock requirements-ray-next.lock
	$(COMPILE) --constraint requirements-ray-next.in --upgrade-package ray --output-file requirements-ray-next.lock pyproject.toml
	sed -i 's/^\(torch==[0-9.]*\)+.*/\1/' requirements.lock requirements-ray-next.lock
	$(BIN)/uv pip compile --quiet $(EXTRAS) --resolution lowest-direct --python-version 3.11 --no-header --no-annotate \
		--constraint requirements.in --output-file requirements-lowest.lock pyproject.toml
	sed -i 's/^\(torch==[0-9.]*\)+.*/\1/; /^\(nvidia-\|cuda-\|triton\)/d' requirements-lowest.lock
	sed -i '1i # The lowest versions that pyproject.toml admits, of what it names; torch is that of requirements.in: PyPI has lower ones\n# only as builds for CUDA, of several GiB. What pyproject.toml says of torch below that is not tested.' requirements-lowest.lock

# make run     install into .venv and run jobs/quickstart.toml; ARGS passes options, for example ARGS="--set train.epochs=3"
# make test    install the extras test and docs too, run the tests in two processes, ruff and mypy
# make slow    run the tests that make test leaves out, as they take long
# make clean   remove .venv
# PYTHON=...   the interpreter that makes .venv (3.11 or newer; by default the first found of python3.13 ... python3)

SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: run test slow clean

IS_NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3 python; do \
	"$$name" $(IS_NEW_ENOUGH) 2>/dev/null && { echo "$$name"; break; }; done)
PYTEST = .venv/bin/python -m pytest -q
KERNELS = tests/ops $(addsuffix .py,$(addprefix tests/,closed_forms/test_mixing loaders/test_schema loaders/test_shop \
	ranking/test_cold results/test_fold_in sampling/test_weighted_neighbours sparsity/test_dynamic sparsity/test_exchange \
	tables/test_slots test_old workers/test_sums))
SERIAL = $$(grep -rlF mark.serial tests --include='test_*.py')
OTHERS = tests $(addprefix --ignore=,$(KERNELS))
INSTALL = .venv/bin/python -m pip install --quiet --constraint constraints.txt --editable

run: .venv/installed
	.venv/bin/gcnrec run jobs/quickstart.toml $(ARGS)

# The first part compiles the kernels, each file's in one process, so that later workers find them in numba's cache.
# Serial tests run one at a time; types are checked on the other core.
test: .venv/installed-test
	.venv/bin/ruff check .
	$(PYTEST) -n 2 --dist loadfile -m "not slow" $(KERNELS)
	$(PYTEST) -n 2 --dist worksteal -m "not serial and not slow" $(OTHERS)
	.venv/bin/mypy -p gcnrec & types=$$!; $(PYTEST) -m "serial and not slow" $(SERIAL); code=$$?; wait $$types && exit $$code

slow: .venv/installed-test
	$(PYTEST) -n 2 --dist worksteal -m slow $$(grep -rlF mark.slow tests --include='test_*.py')

clean:
	rm -rf .venv

.venv/bin/python:
	@"$(PYTHON)" $(IS_NEW_ENOUGH) 2>/dev/null || { \
		echo "gcnrec needs Python 3.11 or newer and found none; install one, or name it: make PYTHON=/path/to/python3.11" >&2; \
		exit 1; }
	"$(PYTHON)" -m venv .venv || { rm -rf .venv; exit 1; }

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) .
	@touch $@

.venv/installed-test: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) '.[test,docs]'
	@touch .venv/installed $@

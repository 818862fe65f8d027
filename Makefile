# `make demo` and `make test` set up all they need in .venv; PYTHON names the interpreter to use.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint docs clean

.venv/installed: pyproject.toml
	@echo "installing into .venv: some minutes, and 6 GB where torch brings CUDA"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: .venv/installed
	rm -rf modeledit-out
	$(BIN)/modeledit unlearn --class 3 --demo -o modeledit-out

# Two processes of one thread each: threads of their own would fight over the same two cores.
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m 'not slow'

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, in site/; a link that leads nowhere is an error.
docs: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf .venv build dist *.egg-info modeledit-out site

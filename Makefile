PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

# Where Python may not keep what it compiled, every process would compile its thousands of modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: venv demo docs test check lint quick

venv: .venv/.installed

# Not compiled here: a run needs few of the modules, and compiling them all took two of five minutes.
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[demo,docs,test]'
	touch $@

demo: venv
	$(BIN)/bertmill demo

docs: venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file infra/site/mkdocs.yml

# mypy has one thread: the tests go on beside it.
check: venv
	$(MAKE) --no-print-directory --jobs 2 lint quick

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

quick: venv
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/unit tests/property tests/rules tests/golden

test: check
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/flow

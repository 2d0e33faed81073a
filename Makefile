# Every target sets up its own environment in .venv on first use; PYTHON chooses the interpreter it is made from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
SOURCES := $(wildcard csrc/*/*) setup.py pyproject.toml

.PHONY: help demo test browser quick lint format bench compare report gpu-check clean
help:
	@echo "make demo       train SimCLR and MAE on real images with the fused kernels, evaluate, write runs/demo/report.md"
	@echo "make test       linter, type checker and the whole test suite"
	@echo "make quick      the fast inner loop, under 3 minutes"
	@echo "make lint       ruff, mypy, clang-format"
	@echo "make bench      measure against eager PyTorch, torch.compile and the peers; stores benchmarks/results/"
	@echo "make compare    train every method small, judge them alike; the README's table and gallery"
	@echo "make report     write the README's tables and the plots from the stored results"
	@echo "make gpu-check  build, test and benchmark on a CUDA machine, in under 9 minutes"

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -c constraints.txt "setuptools>=77" ninja torch numpy
	FASTSSL_CPP=0 $(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e ".[dev]"
	touch $@

# An editable install: Python files are live, and only a change of the C++ sources rebuilds.
$(VENV)/built: $(VENV)/installed $(SOURCES)
	FASTSSL_CPP=1 $(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	touch $@

demo: $(VENV)/built
	$(BIN)/python benchmarks/demo.py

# The tests of two workers share the cores: a thread that waits for another must sleep, not spin.
test quick: export OMP_WAIT_POLICY := passive
test: lint browser
	$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder

# The page of `fastssl report` is looked at in a browser, the one thing that pip does not have.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
browser:
	@command -v chromium || command -v chromium-browser || command -v google-chrome || \
	  { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq chromium; }

quick: $(VENV)/built
	$(PYTEST) -n 2 --dist worksteal -x -m "not slow"

lint: $(VENV)/built
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror csrc/*/*

format: $(VENV)/built
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i csrc/*/*

bench: $(VENV)/built
	$(PYTEST) benchmarks -q

# Half an hour on two cores; goes on where it was stopped.
compare: $(VENV)/built
	$(BIN)/python benchmarks/compare.py
	$(BIN)/python benchmarks/report.py

report: $(VENV)/built
	$(BIN)/python benchmarks/report.py

# Uses the machine's own Python, with its torch and CUDA, and installs nothing.
gpu-check:
	$(PYTHON) benchmarks/gpu_check.py

clean:
	rm -rf $(VENV) build dist runs *.egg-info fastssl/*.so

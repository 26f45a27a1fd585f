# Everything a person needs: demo, test, check. Each sets up .venv by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check long format peers verifier clean

demo: $(STAMP)
	$(BIN)/veraicon demo

test: $(STAMP) peers
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Minutes, not seconds: twenty outputs replayed, a thousand instances recalled from real peers with kill -9 in between.
long: $(STAMP) peers
	$(BIN)/python -m benchmarks.replay 20
	$(BIN)/python -m benchmarks.recall_scale

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

verifier: $(STAMP)
	$(BIN)/python tools/make_verifier.py

peers:
	sh tests/peers/install.sh $(PYTHON)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) .venv-sekmet .fhir-definitions demo-output build dist *.egg-info

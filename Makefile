# make run   sets everything up and starts the server on its embedded store
# make test  sets everything up and runs all tests
# make demo  shows a conversation between real clients, live and offline
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DATA   ?= commucat-data
STAMP  := $(VENV)/.installed
# Processes that test; the tests of one file stay together, as they may share a server.
JOBS   ?= auto

.PHONY: setup run test demo lint types format instructions clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt commucat_cli/pyproject.toml commucat_crypto/pyproject.toml \
          commucat_ledger/pyproject.toml commucat_media/pyproject.toml commucat_proto/pyproject.toml \
          commucat_server/pyproject.toml commucat_storage/pyproject.toml scripts/setup.sh
	PYTHON="$(PYTHON)" VENV="$(VENV)" sh scripts/setup.sh
	@touch $(STAMP)

run: setup
	@echo "The server keeps everything in $(DATA)/ and stops with Ctrl-C. In another terminal:"
	@echo "  $(BIN)/commucat-cli login --server https://localhost:8443 --handle alice --profile profiles/alice --tls-ca $(DATA)/tls/cert.pem"
	@echo "  $(BIN)/commucat-cli login --server https://localhost:8443 --handle bob --profile profiles/bob --tls-ca $(DATA)/tls/cert.pem"
	@echo "  $(BIN)/commucat-cli chat --profile profiles/alice --to DEVICE_ID_OF_BOB      (and the same for bob in a third one)"
	@$(BIN)/commucat-server --data-dir "$(DATA)"

test: setup
	sh scripts/test-tools.sh
	@# Hundreds of servers and commands are started; none should compile the modules of the source tree again.
	$(BIN)/python -m compileall -q commucat_*/src tests
	$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

demo: setup
	$(BIN)/python scripts/demo.py

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

instructions: setup
	$(BIN)/python benchmarks/instructions.py

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis

# make compare   the three kinds of scorer side by side (FULL=1: every test pair, no short cuts)
# make test      the tests that gate a commit        make test-slow   the long ones
# make bench     the side-by-side measurements       make setup       what all of them share
# make docs      the command-line reference pages
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
OUT ?= runs/compare
export PYTHONHASHSEED ?= 0

.PHONY: setup compare test test-slow bench docs lint clean

setup: $(VENV)/ready-$(GPU)

$(VENV)/ready-$(GPU): pyproject.toml
	@$(PYTHON) -m venv $(VENV)
	@./setup.sh $(BIN)/python $(GPU)
	@touch $@

compare: setup
	$(BIN)/assay train demo:train --base embedded:minilm -o runs/demo-reward-model --epochs 6 --learning-rate 5e-5 --if-missing
	$(BIN)/assay compare --benchmark demo $(if $(FULL),,--limit 40) \
	  --scorer bradley-terry,model=runs/demo-reward-model \
	  --scorer self-rewarding,model=embedded:smollm2-135m$(if $(FULL),$(comma)votes=3$(comma)max_tokens=256,$(comma)votes=1$(comma)max_tokens=64) \
	  --scorer critique-out-loud,model=embedded:smollm2-135m$(if $(FULL),$(comma)max_tokens=256,$(comma)max_tokens=64) \
	  --scorer length --scorer random -o $(OUT)$(if $(FULL),-full)

comma := ,

# Two workers, a file each: most tests keep one core busy.
test: setup
	$(BIN)/python -m pytest -q -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

test-slow: setup
	$(BIN)/python -m pytest -q -m slow

# The real judgments that the measurements read; they are not part of the project.
DATA ?= ../shared/data
bench: setup
	@test -d $(DATA) || { echo "no real judgments at $(DATA); give DATA=FOLDER"; exit 1; }
	$(BIN)/python tests/benchmarks/train_vs_trl.py $(DATA)/hh_bt_train.jsonl
	$(BIN)/python tests/benchmarks/score_vs_pipeline.py $(DATA)
	$(BIN)/python tests/benchmarks/judge_throughput.py $(DATA)
	$(BIN)/python tests/benchmarks/batch_overhead.py --engine
	$(BIN)/python tests/benchmarks/overfitting.py $(DATA)/hh_bt_train.jsonl $(DATA)/hh_bt_val.jsonl

docs: setup
	$(BIN)/python -m judges.cli.reference docs/cli

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) runs

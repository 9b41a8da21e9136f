# `make demo` and `make test` need nothing but Python 3.11 or 3.12: they make .venv themselves.

.DEFAULT_GOAL := help
.PHONY: help setup demo test bench bench-gpu ablation lint clean

# Nothing here downloads a model, and a forked tokenizer must not start threads of its own.
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
# Idle OpenMP threads that spin make a busy machine ten times slower.
export OMP_WAIT_POLICY := PASSIVE
export PYTHON

help:
	@echo "make demo    the whole road on a simulated shop: data to recommendations, 10 to 16 minutes"
	@echo "make test    the tests on two workers, 8 to 15 minutes"
	@echo "make bench   every measured claim beside its bar, in bench.json; about half an hour"
	@echo "make bench-gpu  what can be measured on a GPU only, one table; at most ten minutes a piece, four pieces"
	@echo "make ablation  what each part is worth on two real sets; hours (recipes/ablation/README.md)"
	@echo "make lint    ruff and mypy"
	@echo "make clean   remove caches and build leftovers; .venv and runs/ stay"

setup:
	@bash tools/setup.sh

demo: setup
	@echo "demo: running every stage of recipes/demo; results go to runs/demo, finished stages are skipped"
	@.venv/bin/gream run recipes/demo

test: setup
	@echo "test: running the tests, without network and GPU"
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses 2 --dist loadfile

bench: setup
	@.venv/bin/python -m tests.benchmarks.run

bench-gpu: setup
	@.venv/bin/python -m tests.benchmarks.gpu

ablation: setup
	@for set in scientific beauty; do \
	  GREAM_SET=$$set .venv/bin/gream run recipes/ablation --run_dir runs/ablation-$$set || exit; \
	  .venv/bin/gream evaluate --compare runs/ablation-$$set/evaluation* --to runs/ablation-$$set || exit; \
	done

lint: setup
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m mypy

clean:
	@find gream data_synthesis tests -name __pycache__ -type d -prune -exec rm -rf {} +
	@rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist
	@echo "clean: caches removed; .venv and runs/ are untouched"

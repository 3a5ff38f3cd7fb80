# make demo   set up, train a network into 256 KB, look at it, prove that it cannot grow
# make test   set up, then lint, types and all tests
#
# make lint   ruff and mypy alone
# make slow   the tests that take minutes
# make bench  measure the tables in docs/results again (hours; needs MNIST)
# make clean  remove all that was made here
#
# demo and test make .venv when it is missing. PYTHON=... takes another Python, PIP_ARGS=... goes to every
# `pip install` (an index with the CPU build of torch, for instance; see README.md).

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint slow bench clean

PIP_ARGS ?=
bin := .venv/bin
# Bytecode is made when a module is first imported, not for all of torch at once: that takes a minute.
pip = $(bin)/python -m pip --disable-pip-version-check install --no-compile $(PIP_ARGS)

# What an installation depends on. Python sources are not among them: they run from this folder.
sources := pyproject.toml CMakeLists.txt $(wildcard zgedge/runtime/core/*.[ch])

help:
	@sed -n '/^SHELL/q;s/^# \{0,1\}//p' Makefile

.venv/bin/python:
	@tools/make_venv.sh .venv $(PYTHON)

.venv/zgedge-train: $(sources) | .venv/bin/python
	@echo "Installing zgedge and what training needs into .venv (torch is some 200 MB) ..."
	@$(pip) -q -e '.[train]'
	@touch $@

.venv/zgedge-all: $(sources) | .venv/bin/python
	@echo "Installing zgedge and all that its tests need into .venv ..."
	@$(pip) -q -e '.[all]'
	@touch $@ .venv/zgedge-train

demo: .venv/zgedge-train
	$(bin)/zgedge train --budget 256KB
	$(bin)/zgedge info model.zge
	$(bin)/zgedge prove model.zge --steps 100000

lint: .venv/zgedge-all
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy

# A test file goes whole to one of three processes, so that what it sets up is made once. Those of
# services and boards mostly wait, so that three are busy on two cores. Each has one thread: with more
# they would only wait for each other.
test: lint
	@tools/get_qemu.sh
	@tools/get_chromium.sh
	OMP_NUM_THREADS=1 $(bin)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -q

slow: .venv/zgedge-all
	@tools/get_qemu.sh
	OMP_NUM_THREADS=1 $(bin)/python -m pytest -q -m slow

# Strategies that the table of all budgets does not show.
others := fixed sparse;rewired sparse, hebbian;rewired sparse, three-factor
others := $(others);rewired sparse, attention;rewired sparse, deepr;rewired sparse, lottery

bench: .venv/zgedge-all
	@mkdir -p .cache
	$(bin)/python -m zgedge.bench.speed --out docs/results/speed.md
	$(bin)/python -m zgedge.bench.memory --out docs/results/memory.md
	$(bin)/zgedge bench budgets --data digits --budget 2KB,4KB,16KB,64KB,256KB,1MB \
		--log .cache/digits_budgets.jsonl --out docs/results/digits.md
	$(bin)/zgedge bench equal-bytes --data digits --budget 4KB,16KB \
		--log .cache/equal_bytes_digits.jsonl --out docs/results/equal_bytes_digits.md \
		--plot docs/results/equal_bytes_digits.png
	$(bin)/zgedge bench equal-bytes --data mnist --budget 12KB,48KB \
		--log .cache/equal_bytes_mnist.jsonl --out docs/results/equal_bytes_mnist.md \
		--plot docs/results/equal_bytes_mnist.png
	$(bin)/zgedge bench equal-bytes --data mnist --budget 12KB,48KB --rows "$(others)" \
		--log .cache/equal_bytes_mnist.jsonl --out docs/results/equal_bytes_strategies.md
	$(bin)/zgedge bench equal-bytes --data mnist --budget 256KB \
		--log .cache/equal_bytes_mnist.jsonl --out docs/results/equal_bytes_mnist_256KB.md
	$(bin)/python -m zgedge.bench.pictures --log .cache/pictures.jsonl --out docs/results/pictures.md
	$(bin)/python -m zgedge.bench.pictures --length '10 minutes' --log .cache/pictures.jsonl \
		--out docs/results/pictures_10_minutes.md
	$(bin)/python -m zgedge.bench.latency --out docs/results/latency.md
	rm -f docs/results/choice.md
	$(bin)/python -m zgedge.bench.choice --data digits --budget 12KB --seeds 0,1,2,3,4 \
		--log .cache/choice.jsonl --out docs/results/choice.md
	$(bin)/python tools/make_shapes.py .cache/shapes --count 500
	$(bin)/python -m zgedge.bench.choice --data .cache/shapes --budget 16KB --seeds 0 \
		--log .cache/choice.jsonl --out docs/results/choice.md
	$(bin)/python -m zgedge.bench.choice --data mnist --budget 12KB --seeds 0,1,2 \
		--log .cache/choice.jsonl --out docs/results/choice.md
	$(bin)/python -m zgedge.bench.adaptation --out docs/results/adaptation.md
	$(bin)/python -m zgedge.bench.strategies --out docs/results/strategies.md
	$(bin)/python tools/draw_strategies.py
	$(bin)/zgedge bench continual --samples 2000 --log .cache/continual.jsonl \
		--out docs/results/continual.md --plot docs/results/continual.png
	$(bin)/zgedge bench continual --stream split-mnist,split-cifar10,permuted-mnist \
		--rows "weights only;rewired, rigl;dense int8;analytic head" \
		--log .cache/continual_full.jsonl --out docs/results/continual_full.md
	$(bin)/python -m zgedge.bench.guard --out docs/results/guard.md
	$(bin)/python -m zgedge.bench.service --out docs/results/service.md
	$(bin)/python -m zgedge.bench.crashes --out docs/results/crashes.md
	$(bin)/python -m zgedge.bench.kills --out docs/results/kills.md
	$(bin)/python -m zgedge.bench.exports --out docs/results/exports.md
	$(bin)/python -m zgedge.bench.deploy --out docs/results/deploy.md
	$(bin)/python tools/fuzz.py --minutes 38 --out docs/results/fuzz.md
	$(bin)/python tools/systemd_machine.py --out docs/results/systemd.md
	$(bin)/python -m zgedge.bench.proof --out docs/results/proof.md
	$(bin)/python -m zgedge.bench.native --out docs/results/native.md
	$(bin)/python tools/coverage_of_arena.py --results docs/results/bytes_used.md
	@tools/get_qemu.sh
	$(bin)/python tools/platforms.py --out docs/results/platforms.md
	ZGEDGE_QEMU=.cache/qemu $(bin)/python -m zgedge.bench.mcu --out docs/results/mcu.md
	$(bin)/python tools/overview.py measure
	$(bin)/python tools/overview.py draw

clean:
	rm -rf .venv .cache build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf CMakeCache.txt CMakeFiles CMakeInit.txt cmake_install.cmake build.ninja .ninja_deps .ninja_log \
		.cmake .skbuild-info.json
	rm -f zgedge/runtime/libzge.so libzge.a
	find zgedge tests -name __pycache__ -prune -exec rm -rf {} +

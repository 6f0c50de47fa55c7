# Everything below is a thin name for a command that works without make.
CARGO ?= cargo
TERRARIUM = target/release/terrarium

.PHONY: setup run test bench-tasks clean

# The compiler for candidates, the SDK and the corpus. Needs a network once.
setup:
	$(CARGO) build --release --bin terrarium
	$(TERRARIUM) setup

run: setup
	$(TERRARIUM) run gpt

test: setup
	$(CARGO) test --release --workspace

# The problems with published figures, searched without a model: 17 of them,
# 100 s each on all cores.
bench-tasks: setup
	$(TERRARIUM) bench tasks --wall-per-task 100s

clean:
	$(CARGO) clean

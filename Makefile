# Everything below is a thin name for a command that works without make.
CARGO ?= cargo
TERRARIUM = target/release/terrarium

.PHONY: setup run test clean

# The compiler for candidates, the SDK and the corpus. Needs a network once.
setup:
	$(CARGO) build --release --bin terrarium
	$(TERRARIUM) setup

run: setup
	$(TERRARIUM) run gpt

test: setup
	$(CARGO) test --release --workspace

clean:
	$(CARGO) clean

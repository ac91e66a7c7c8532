"""Serve a GGUF file by llama.cpp's own server; run by a Python that has xllamacpp, and by no test.

MODEL PORT [KEY]
"""

import sys
import time

import xllamacpp  # type: ignore[import-not-found]

model, port, *keys = sys.argv[1:]
params = xllamacpp.CommonParams()
params.model.path = model
params.hostnames = ["127.0.0.1"]
params.port = int(port)
params.n_ctx = 4096
params.n_parallel = 4
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
params.api_keys = keys
server = xllamacpp.Server(params)
while True:
    time.sleep(3600)

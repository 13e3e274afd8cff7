"""The servers that are compared: a file each, and `classifier.py`, the model as all of them but ours run it.

Each file is what its server's documentation would have a user write, with batches of up to 64 requests where the server
makes batches (Triton: 64 sequences; mosec: 32 requests, with which it is faster), the shortest wait for them that it
can do, and a model process or instance for each of two cores.

`bench/registry.py` says how they are started. Nothing but numpy, onnxruntime and the server itself may be
imported here.
"""

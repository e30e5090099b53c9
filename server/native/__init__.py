"""Native CPU kernels: 4-bit projections, adapter deltas, paged attention, a whole llama step.

`build` compiles the C++ once into a cache and loads it; `weights` holds packed matrices; `ops` are
the single operations; `llama` is one step of a llama-family model as one call; `abi` mirrors the
C structures. A machine without a compiler or without AVX2 has no native library, and says so once.
"""

"""Hostile input for everything kvcalc reads: model files, config.json, GGUF headers, workloads, and what lies beside.

A *case* is a few files that one call would read. `seeds` has sound ones, `mutate` breaks them, `targets` reads them
and judges, `loop` keeps what led to an outcome not seen before, `corpus` stores it. `scripts/fuzz` runs it for long;
the plain tests replay the corpus and a few fresh cases.
"""

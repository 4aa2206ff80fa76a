"""One module per question: they load, plan and invert, and return the records of `kvcalc.core.result`."""

"""Measured runs of cliphouse and its peers: `python -m benchmarks.run`, then `python -m benchmarks.report`."""

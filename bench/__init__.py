"""Measures what the platform's own code costs in time and memory: `make bench`. See docs/explanation/bench.md."""

"""Measures one machine's GPUs: `python3 -m bench.gpu.measure`. See docs/explanation/calibration.md."""

"""Benchmarks: programs that print figures and ratios taken in one run."""

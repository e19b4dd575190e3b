"""Timings side by side that print ratios; `make bench` runs them."""

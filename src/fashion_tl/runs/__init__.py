"""The record of a run: writing it and reading it."""

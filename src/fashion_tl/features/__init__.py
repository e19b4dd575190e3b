"""Features of frozen stages, computed once and kept: files and their keys."""

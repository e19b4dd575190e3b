"""Features of frozen stages, computed once: how, and the keys that they are kept under."""

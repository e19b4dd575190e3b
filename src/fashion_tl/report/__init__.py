"""Records of runs to tables, plots and one HTML page; nothing here imports torch or Lightning."""

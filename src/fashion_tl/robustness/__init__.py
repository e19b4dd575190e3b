"""How a finished run fares on images that are corrupted, moved, or of no class that it knows."""

"""What is expensive to compute, kept on disk: entries of arrays, their size, which go first; needs no torch."""

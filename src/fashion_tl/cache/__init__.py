"""What is frozen is computed once: splitting a network, keeping activations on disk, training on them."""

"""Callbacks: the feature cache, the recorder, checkpoints, TensorBoard, the progress bar."""

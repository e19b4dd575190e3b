"""Drawing with matplotlib and without a display; neither torch nor Lightning."""

"""Pure functions from predictions to figures; nothing here imports torch or Lightning."""

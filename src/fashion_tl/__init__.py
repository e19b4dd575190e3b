"""Transfer-learning experiments on images: a run is a YAML file, what it leaves behind is a complete record."""

__version__ = "0.1.0"

"""Finished runs made into one classifier: ensembles, averages of weights, views of an image."""

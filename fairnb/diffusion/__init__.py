"""Load a pipeline, identify it, and sample from it with and without gradient."""

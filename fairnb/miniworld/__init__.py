"""The mini world: drawn portraits with a planted bias, and the models trained on them."""

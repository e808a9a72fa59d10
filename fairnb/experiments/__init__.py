"""Run notebooks and experiments, evaluate, audit, and collect results."""

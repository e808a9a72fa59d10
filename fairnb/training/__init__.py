"""Locate bias neurons and train adapters."""

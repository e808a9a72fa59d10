"""Figures, widgets, and the report page."""

"""The miniature world: portraits that the project draws itself."""

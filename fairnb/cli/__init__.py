"""The `fairnb` command."""

"""`python -m fairnb` is the `fairnb` command."""

from fairnb.cli import main

main()

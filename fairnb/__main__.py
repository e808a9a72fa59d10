"""`python -m fairnb` is the `fairnb` command."""

from fairnb.cli.app import main

main()

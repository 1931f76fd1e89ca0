"""`python -m harness.cli`: the `hpz` command where it is not on the path."""

from harness.cli.main import main

if __name__ == "__main__":
    main()

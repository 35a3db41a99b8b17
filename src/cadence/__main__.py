"""`python -m cadence` is the `cadence` command."""

from cadence.cli import main

if __name__ == "__main__":
    main(prog_name="cadence")

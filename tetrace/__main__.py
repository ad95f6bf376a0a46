"""`python -m tetrace` is the `tetrace` command."""

from tetrace.cli.main import main

if __name__ == "__main__":
    main()

"""`python -m fourm`."""

from fourm.cli import main

if __name__ == "__main__":
    main()

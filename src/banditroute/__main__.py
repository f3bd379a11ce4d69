"""`python -m banditroute`."""

from banditroute.cli import main

if __name__ == "__main__":
    main()

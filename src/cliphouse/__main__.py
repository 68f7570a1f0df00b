"""`python -m cliphouse`."""

from cliphouse.cli.main import main

if __name__ == "__main__":
    main()

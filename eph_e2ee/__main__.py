"""`python -m eph_e2ee`: the eph-e2ee command."""

import sys

from eph_e2ee.cli import main

if __name__ == "__main__":
    sys.exit(main())

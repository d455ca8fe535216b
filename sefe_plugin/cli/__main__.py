"""`python -m sefe_plugin.cli` is `sefe`."""

import sys

from sefe_plugin.cli import main


if __name__ == "__main__":
    sys.exit(main())

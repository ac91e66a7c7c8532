"""`python -m specdec`."""

import sys

try:
    from specdec.cli.main import main

    status = main()
except KeyboardInterrupt:  # while the modules were still being loaded
    status = 130
sys.exit(status)

"""`python -m specdec`."""

from specdec.cli import main

raise SystemExit(main())

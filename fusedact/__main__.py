"""`python -m fusedact`: the command line."""

import sys

from .looking.cli import main

sys.exit(main())

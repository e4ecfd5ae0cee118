"""`python -m attcot_analysis.cli`, for launchers that start modules."""

import sys

from attcot_analysis.cli import main

sys.exit(main())

"""`python -m mnv2_perception.cli`, as `mnv2`."""

import sys

from mnv2_perception.cli.main import main

sys.exit(main())

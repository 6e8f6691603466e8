"""Run `mnv2` as `python -m mnv2_perception.cli`."""

import sys

from mnv2_perception.cli.main import main

sys.exit(main())

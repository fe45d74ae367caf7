"""`python -m mmft` is the command `mmft`."""

from __future__ import annotations

import sys

from mmft.cli.main import main

sys.exit(main())

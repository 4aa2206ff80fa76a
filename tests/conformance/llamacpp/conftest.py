"""The helpers of this suite are plain modules beside it; the GGUF writer is shared by all tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

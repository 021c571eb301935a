"""Exit status 0 if the installed torch is a build that needs NVIDIA's packages beside it."""

import sys
from importlib.metadata import requires

sys.exit(not any(line.startswith("nvidia-") for line in requires("torch") or []))

"""`tests.made_cli` with updates that take longer until a SLURM job has come back $BRAKED times (else once).

That leaves the time to stop it in the middle.
"""

import os
import sys
import time

from repro.cli import main
from repro.training.step import Execution
from tests.made_cli import use_made_data

BRAKE = 0.2  # seconds for an update

if __name__ == "__main__":
    use_made_data()
    if int(os.environ.get("SLURM_RESTART_COUNT", "0")) < int(os.environ.get("BRAKED", "1")):
        advance = Execution.advance

        def slowly(self: Execution, updates: int) -> None:
            advance(self, updates)
            time.sleep(BRAKE)
        Execution.advance = slowly
    sys.exit(main())

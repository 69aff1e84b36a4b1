"""The fault matrix as a benchmark: what a stack under load loses when processes, links, clocks and disks fail.

The load asks for every kind of effect that agents have, and each is held to its law (`tests/chaos/laws.py`).
Prints the table of faults (those that this system does not let us make are skipped, with the reason), then one JSON
object: `kills`, `lost`, `duplicated`, `reordered` (all three are to be 0),
and `recovery_p99_s`, the time from the end of a bus or agents process until every shard answers again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.chaos.fire import Length, run

QUICK_S = 25.0
FULL_S = 600.0
KILLS = 60


def main() -> None:
    """Burn and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_S:.0f} s, not {FULL_S:.0f} s and {KILLS} kills")
    parser.add_argument("--seed", type=int, default=1, help="of the order of faults (default: %(default)s)")
    chosen = parser.parse_args()
    raise SystemExit(run(Length(QUICK_S) if chosen.quick else Length(FULL_S, KILLS), chosen.seed))


if __name__ == "__main__":
    main()

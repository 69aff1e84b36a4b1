"""What the libraries that compute find in the environment of our processes: it decides how they round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

COMPUTING: Final[Mapping[str, str]] = {
    # spinning OpenMP threads starve the bus
    "OMP_WAIT_POLICY": "PASSIVE",
    # MKL rounds the same wherever a buffer lies
    "MKL_CBWR": "AUTO,STRICT",
}

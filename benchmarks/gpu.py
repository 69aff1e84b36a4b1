"""What the engine's kernels and models reach on a GPU: one command, under nine minutes, few dependencies.

It needs torch 2.11, triton 3.6, transformers and msgspec, or later ones; no NATS, no Postgres. First every kernel is
compared with plain PyTorch: on red nothing is measured. Then the device's ceilings are measured, the kernels as
fractions of them, and decoding and prompts of Llama-3-8B and Qwen3-30B-A3B in bfloat16 with dummy weights, beside
`generate` of transformers on the same shapes. The last line is one JSON object; what was not measured is null there.
With `--dry` all of it is done on a processor in tiny shapes, which measures nothing, and shows that it would run.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import logging
import os
import sys
from pathlib import Path
from threading import Timer

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

MOST_S = 535
"""Then figures are told, whatever is under way."""
NEEDED = ("triton", "transformers", "msgspec", "numpy")
FIGURES = ("decode_bandwidth_fraction_b1", "decode_bandwidth_fraction_b64", "prefill_flop_fraction", "idle_fraction")


def main() -> None:
    """Print lines, and figures last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="kernels are checked, and our Llama-3-8B measured alone")
    parser.add_argument("--dry", action="store_true", help="go through all of it without a GPU; nothing is measured")
    asked = parser.parse_args()
    quick = asked.quick
    figures: dict[str, float | None] = dict.fromkeys(FIGURES)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing and (asked.dry or torch.cuda.is_available()):
        print(f"nothing is measured: install {' '.join(missing)}")  # noqa: T201
        print(json.dumps(figures))  # noqa: T201
        sys.exit(2)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("engine.runner").setLevel(logging.INFO)
    if asked.dry:
        os.environ["TRITON_INTERPRET"] = "1"  # heeded where kernels are defined
        failed = importlib.import_module("benchmarks.gpu_dry").run(quick=quick)
        print("this was a dry run: no figure is a measurement, all stay open")  # noqa: T201
        print(json.dumps(figures))  # noqa: T201
        sys.exit(1 if failed else 0)
    if torch.cuda.is_available():
        # it needs Triton, which is not asked for where there is no GPU
        end = Timer(MOST_S, _give_up, (figures,))
        end.daemon = True
        end.start()
        try:
            importlib.import_module("benchmarks.gpu_run").run(figures, quick=quick)
        finally:
            end.cancel()
            print(json.dumps(figures), flush=True)  # noqa: T201
        return
    print("no GPU here: nothing is measured, and the figures stay open")  # noqa: T201
    print(json.dumps(figures))  # noqa: T201


def _give_up(figures: dict[str, float | None]) -> None:
    """Something hangs: tell what is known."""
    print(f"not done after {MOST_S} s: the rest is left out")  # noqa: T201
    print(json.dumps(figures), flush=True)  # noqa: T201
    os._exit(3)


if __name__ == "__main__":
    main()

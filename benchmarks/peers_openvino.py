"""OpenVINO GenAI's continuous batching, asked through a pipe. Runs in an interpreter that has `openvino-genai`.

`python peers_openvino.py EXPORTED_FOLDER THREADS KV_GB`
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import openvino
import openvino_genai

from benchmarks.peers_pipe import Asked, Pipe, Told


def config(count: int) -> Any:
    """Ask for so many tokens, whatever they are."""
    told = openvino_genai.GenerationConfig()
    told.max_new_tokens = count
    told.ignore_eos = True
    told.do_sample = False
    return told


def news(handles: dict[int, tuple[Any, int]]) -> list[Told]:
    """Read what a step brought; whoever has all its tokens is gone afterwards."""
    found = []
    for name, (handle, left) in list(handles.items()):
        if not handle.can_read():
            continue
        tokens = [token for output in handle.read().values() for token in output.generated_ids]
        handles[name] = (handle, left - len(tokens))
        done = len(tokens) >= left
        found.append(Told(name, tokens, done))
        if done:
            del handles[name]
    return found


def main() -> None:
    """Load, then serve."""
    folder, threads, gigabytes = sys.argv[1:]
    pipe = Pipe()
    scheduling = openvino_genai.SchedulerConfig()
    scheduling.cache_size = int(gigabytes)
    scheduling.enable_prefix_caching = True
    properties = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": int(threads)}
    served = openvino_genai.ContinuousBatchingPipeline(folder, scheduling, "CPU", properties, {}, {})
    pipe.ready()
    handles: dict[int, tuple[Any, int]] = {}
    while True:
        try:
            asked: list[Asked] = pipe.take(wait=not handles)
        except EOFError:
            return
        for one in asked:
            prompt = openvino.Tensor(np.array([one.prompt], np.int64))
            handles[one.name] = (served.add_request(one.name, prompt, config(one.wanted)), one.wanted)
        served.step()
        pipe.tell(news(handles))


if __name__ == "__main__":
    main()

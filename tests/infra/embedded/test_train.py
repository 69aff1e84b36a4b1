"""Training: the same seed gives the same weights, whether or not it was interrupted."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from infra.embedded.evaluate import Greedy
from infra.embedded.template import CHECKPOINT
from infra.embedded.train import Training

STEPS = 3


def new_training(folder: Path, seed: int) -> Training:
    """Make a training that takes the shipped tokenizer; to make one takes longer than these steps."""
    folder.mkdir(exist_ok=True)
    shutil.copyfile(CHECKPOINT / "tokenizer.json", folder / "tokenizer.json")
    return Training(folder, STEPS, seed, every=60)


def test_the_same_seed_gives_the_same_weights_though_interrupted(tmp_path: Path) -> None:
    new_training(tmp_path / "whole", 5).run()
    new_training(tmp_path / "interrupted", 5).run(until=1)
    second = new_training(tmp_path / "interrupted", 5)
    second.resume()
    second.run()
    new_training(tmp_path / "other", 6).run(until=1)
    whole, again, other = (
        load_file(tmp_path / name / "model.safetensors") for name in ("whole", "interrupted", "other")
    )
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert not all(torch.equal(whole[name], other[name]) for name in whole)
    # what training writes is what its judge reads
    assert Greedy(tmp_path / "whole").answers([([{"role": "user", "content": "Hi"}], ())])

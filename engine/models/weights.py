"""A checkpoint folder's tensors, mapped into memory and handed out one by one.

A tensor that already has the model's number format and lives on the CPU is the file's own pages: no second copy.
"""

from __future__ import annotations

import json
import logging
import math
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from engine.errors import CheckpointError
from engine.kernels.weights import Quantization, Weight
from engine.models.config import read_json
from engine.models.prepacked import placed, read_scheme
from engine.models.unwanted import UNWANTED
from engine.progress import Bar, UseTqdm

log = logging.getLogger(__name__)

_DESCRIPTIONS: Final = ("*.json", "*.jinja", "*.model", "*.txt")
_WANTED: Final = {"auto": ("*.safetensors", *_DESCRIPTIONS), "dummy": _DESCRIPTIONS}
_OLD_NAMES: Final = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
"""How names end that have changed since: checkpoints of BERT's first years have them, BERT's own among them."""
_WIDTHS: Final = {"F16": 2, "BF16": 2, "I16": 2, "F8_E4M3": 1, "I8": 1, "U8": 1, "F64": 8, "I64": 8}
"""Bytes of a number, by what files call its format; of others 4."""
_NAMED: Final = 5
"""How many tensors an error message names before it only counts."""

_POOL: Final = 1_000_003

_SOON_S: Final = 0.5
"""Weights that are there after so many seconds get no bar."""

LoadFormat = Literal["auto", "dummy"]
"""Where weights come from: the checkpoint's files, or from chance, always the same, to try a config.json without."""


def find_checkpoint(path_or_id: str, load_format: LoadFormat = "auto", use_tqdm: UseTqdm = None) -> Path:
    """Return the folder of a checkpoint; what is not a folder is taken for a hub id and fetched.

    How far that is shows the hub's own bar, where `use_tqdm` does not say that there is to be none.

    Raises:
        CheckpointError: It is neither, or the hub cannot be reached and has not been before.
    """
    path = Path(path_or_id).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(path, "is a file; give the folder that holds config.json")
    log.info("fetching %s from the hub, or what is missing of it", path_or_id)
    try:
        bar = _silent_bar() if use_tqdm is False else None
        wanted, unwanted = list(_WANTED[load_format]), list(UNWANTED)
        return Path(snapshot_download(path_or_id, allow_patterns=wanted, ignore_patterns=unwanted, tqdm_class=bar))
    except HFValidationError as error:
        raise CheckpointError(path_or_id, "neither a folder nor possible as the id of a hub model") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(path_or_id, f"there is no such folder, and the hub did not give it: {error}") from error


class Checkpoint:
    """The tensors of a folder's single or sharded safetensors files."""

    def __init__(
        self, folder: Path, dtype: torch.dtype, device: torch.device, quantization: Quantization = "none"
    ) -> None:
        """Open the files and read their tables of contents, not their tensors.

        Raises:
            CheckpointError: There are none, the index does not fit them, or one is damaged.
        """
        self.quantization = quantization
        """How products with these weights are computed."""
        self.scheme = read_scheme(folder, read_json(folder / "config.json") or {})
        """How its projections are packed; None if they are plain."""
        self._folder = folder
        self._dtype = dtype
        self._device = device
        self._files = {name: _open(folder / name) for name in _file_names(folder)}
        # by the names of today: in which file, and what it is called there
        self._where = {
            _today(tensor): (name, tensor)
            for name, file in self._files.items()
            for tensor in file.keys()  # noqa: SIM118
        }
        self._taken: set[str] = set()
        self._bar: Bar | None = None

    @contextmanager
    def loading(self, use_tqdm: UseTqdm) -> Iterator[None]:
        """Show how much of the tensors is taken meanwhile, and log what it came to."""
        began, size = time.perf_counter(), self.size()
        shape = {"unit": "B", "unit_scale": True, "delay": _SOON_S}
        with Bar(use_tqdm, "weights", size, **shape) as self._bar:
            yield
            self._bar.fill()
        self._bar = None
        log.info("loaded %.1f MB of weights in %.1f s", size / 1e6, time.perf_counter() - began)

    def has(self, name: str) -> bool:
        """Whether there is a tensor of this name."""
        return name in self._where

    def take(self, name: str, *shape: int) -> Tensor:
        """Return a tensor in the model's number format, on its device.

        Raises:
            CheckpointError: It is missing or has another shape.
        """
        if name not in self._where:
            raise CheckpointError(self._folder, f"the tensor {name!r} is missing")
        file, called = self._where[name]
        tensor: Tensor = self._files[file].get_tensor(called)
        if tensor.shape != shape:
            problem = f"the tensor {called!r} is {list(tensor.shape)} but config.json makes it {list(shape)}"
            raise CheckpointError(self._folder / file, problem)
        self._taken.add(name)
        loaded = tensor.to(device=self._device, dtype=self._dtype)
        if self._bar is not None:
            self._bar.add(loaded.nbytes)
        return loaded

    def weight(self, name: str, out: int, width: int) -> Weight:
        """Return the weight [out, width] of the projection `name`, in as few bits as it is here, on the device.

        Raises:
            CheckpointError: It is missing or has another shape.
        """
        scheme = self.scheme
        if scheme is None or not self.has(f"{name}.{scheme.sign}"):
            return self.take(f"{name}.weight", out, width)

        def take(ending: str) -> Tensor | None:
            whole = f"{name}.{ending}"
            if whole not in self._where:
                return None
            self._taken.add(whole)
            file, called = self._where[whole]
            tensor: Tensor = self._files[file].get_tensor(called)
            if self._bar is not None:
                self._bar.add(tensor.numel() * self._dtype.itemsize)  # as `size` counts it
            return tensor

        try:
            return placed(scheme.weight(take, out, width, self._dtype), self._device)
        except ValueError as error:
            raise CheckpointError(self._folder, f"the projection {name!r}: {error}") from error

    def size(self) -> int:
        """Return the bytes of all tensors in the model's number format, from the tables of contents."""
        shapes = (self._files[file].get_slice(called).get_shape() for file, called in self._where.values())
        numbers: int = sum(math.prod(shape) for shape in shapes)
        return numbers * self._dtype.itemsize

    def stored(self) -> int:
        """Return the bytes of all tensors as the files have them."""
        return sum(
            math.prod(found.get_shape()) * _WIDTHS.get(found.get_dtype(), 4)
            for found in (self._files[file].get_slice(called) for file, called in self._where.values())
        )

    def refuse_leftovers(self, harmless: Iterable[str] = ()) -> None:
        """Make sure that the model took every tensor, except those whose names end like one of `harmless`.

        Raises:
            CheckpointError: Some were not: the model would compute something else than was trained.
        """
        endings = tuple(harmless)
        left = sorted(
            name
            for name in self._where.keys() - self._taken
            if not name.endswith(endings) and not self._adds_nothing(name)
        )
        if left:
            more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
            names = ", ".join(repr(name) for name in left[:_NAMED])
            raise CheckpointError(self._folder, f"has tensors that the architecture does not know: {names}{more}")

    def _adds_nothing(self, name: str) -> bool:
        """Say whether a tensor is what some packers write where there is nothing: a bias of zeros."""
        if not name.endswith(".bias") or self.scheme is None:
            return False
        if f"{name.removesuffix('bias')}{self.scheme.sign}" not in self._where:
            return False
        file, called = self._where[name]
        return not self._files[file].get_tensor(called).any()


class Dummy:
    """Weights from chance, the same for a name and shape whenever they are asked for."""

    def __init__(self, dtype: torch.dtype, device: torch.device, quantization: Quantization = "none") -> None:
        self.quantization = quantization
        """How products with these weights are computed."""
        self._dtype = dtype
        self._device = device
        # drawn once and read from different places: so many numbers as no row is long
        self._pool = torch.randn(_POOL, generator=torch.Generator().manual_seed(0))

    def has(self, name: str) -> bool:
        """Say that there is a tensor, whatever its name."""
        return True

    def take(self, name: str, *shape: int) -> Tensor:
        """Return a tensor in the model's number format, on its device."""
        count = math.prod(shape)
        numbers = self._pool.roll(zlib.crc32(name.encode()) % _POOL)
        numbers = numbers.repeat(-(-count // _POOL))[:count].view(shape)
        # small enough that products keep the size of what they are given
        scaled = numbers * shape[-1] ** -0.5 if len(shape) > 1 else 1 + numbers / 10
        return scaled.to(device=self._device, dtype=self._dtype)

    def weight(self, name: str, out: int, width: int) -> Weight:
        """Return a projection's weight, never packed."""
        return self.take(f"{name}.weight", out, width)


def _silent_bar() -> Any:
    """Make the class of a hub's bar that draws nothing."""

    def begin(bar: Any, *args: Any, name: str | None = None, **more: Any) -> None:
        tqdm.__init__(bar, *args, **{**more, "disable": True})

    return type("SilentBar", (tqdm,), {"__init__": begin})


def _today(name: str) -> str:
    """Return what a tensor is called today."""
    for old, new in _OLD_NAMES.items():
        if name.endswith(old):
            return f"{name.removesuffix(old)}{new}"
    return name


def _file_names(folder: Path) -> list[str]:
    """Return the names of the files that make up the checkpoint."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            shards = json.loads(index.read_bytes())["weight_map"].values()
        except (ValueError, KeyError, AttributeError, OSError) as error:
            raise CheckpointError(index, f"cannot be read: {error!r}") from error
        return sorted(set(shards))
    if (folder / "model.safetensors").exists():
        return ["model.safetensors"]
    raise CheckpointError(folder, "has neither model.safetensors nor model.safetensors.index.json")


def _open(path: Path) -> Any:
    """Map a file into memory; its tensors stay valid for as long as they are held."""
    if not path.exists():
        raise CheckpointError(path, "missing, though the index names it")
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(path, f"damaged or cut short: {error}") from error

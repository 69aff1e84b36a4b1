"""What sentence-transformers writes beside a checkpoint: how texts become one vector, and one score."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from engine.errors import CheckpointError
from engine.models.config import read_json

Pooling = Literal["cls", "mean", "last"]
"""The state of the first token, the mean of all of them, or that of the last."""

POOLINGS: Final[tuple[Pooling, ...]] = get_args(Pooling)

_MODES: Final[dict[str, Pooling]] = {
    "cls_token": "cls",
    "cls": "cls",
    "mean_tokens": "mean",
    "mean": "mean",
    "lasttoken": "last",
}
_PREFIX: Final = "pooling_mode_"
_LIMITS: Final = tuple(f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "xlm-roberta"))
"""Where the limit of a text may be: the first one that is there counts."""
_MODULE_LIST: Final = "modules.json"
_MODULES: Final = {"Transformer", "Pooling", "Normalize"}
"""Parts of a model that we have; every embedding is normalised."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """What is put before a text, by name."""

    texts: Mapping[str, str]
    default: str | None
    """The name of the one that is used where none is asked for."""


def is_sentence_model(folder: Path) -> bool:
    """Say whether a folder is laid out as sentence-transformers does it: a model of whole texts, whatever its name."""
    return (folder / _MODULE_LIST).exists()


def read_pooling(folder: Path) -> Pooling | None:
    """Read how a model pools, if it is said.

    Raises:
        CheckpointError: It asks for what we do not have.
    """
    path = folder / _MODULE_LIST
    found: Pooling | None = None
    for module in _read_modules(path):
        kind = str(module["type"]).rpartition(".")[2]
        if kind not in _MODULES:
            raise CheckpointError(path, f"the module {kind!r} is not supported, only {', '.join(sorted(_MODULES))}")
        if kind == "Pooling":
            found = _read_mode(folder / str(module["path"]) / "config.json")
    return found


def read_limit(folder: Path, context_length: int) -> int:
    """Return how many tokens a text may have: the model's own positions, or fewer.

    Raises:
        CheckpointError: A file is damaged, or has texts in lower case before they are tokenised.
    """
    path = next((folder / name for name in _LIMITS if (folder / name).exists()), folder / _LIMITS[0])
    own = read_json(path) or {}
    if own.get("do_lower_case"):
        raise CheckpointError(path, "do_lower_case is not supported: the tokenizer has to do it")
    said = (own.get("max_seq_length"), (read_json(folder / "tokenizer_config.json") or {}).get("model_max_length"))
    return min([context_length, *(int(limit) for limit in said if limit)])


def read_activation(folder: Path, raw: Mapping[str, Any]) -> Literal["sigmoid", "identity"]:
    """Return what is applied to the logit of a model with one label; `raw` is its config.json.

    Raises:
        CheckpointError: It is neither.
    """
    path = folder / "config_sentence_transformers.json"
    said = (
        (raw.get("sentence_transformers") or {}).get("activation_fn")
        or raw.get("sbert_ce_default_activation_function")
        or (read_json(path) or {}).get("activation_fn")
        or "Sigmoid"
    )
    match str(said).rpartition(".")[2]:
        case "Sigmoid":
            return "sigmoid"
        case "Identity":
            return "identity"
        case other:
            raise CheckpointError(path, f"the activation {other!r} is not supported, only Sigmoid and Identity")


def read_prompts(folder: Path) -> Prompts:
    """Read what is put before texts.

    Raises:
        CheckpointError: The file is damaged, or the default is not among them.
    """
    path = folder / "config_sentence_transformers.json"
    raw = read_json(path) or {}
    texts = {str(name): str(text) for name, text in (raw.get("prompts") or {}).items()}
    default = raw.get("default_prompt_name")
    if default is not None and default not in texts:
        raise CheckpointError(path, f"default_prompt_name {default!r} is not among its prompts")
    return Prompts(texts, default)


def _read_modules(path: Path) -> list[Any]:
    """Read the list of a model's parts; there are none where there is no file.

    Raises:
        CheckpointError: The file is there and is not a JSON list.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return []
    except (ValueError, OSError) as error:
        raise CheckpointError(path, f"cannot be read: {error}") from error
    if not isinstance(value, list):
        raise CheckpointError(path, "is not a JSON list")
    return value


def _read_mode(path: Path) -> Pooling:
    """Read one mode of pooling.

    Raises:
        CheckpointError: There is none that we have, or several.
    """
    raw = read_json(path)
    if raw is None:
        raise CheckpointError(path, "missing, though modules.json names it")
    if raw.get("include_prompt") is False:
        raise CheckpointError(path, "include_prompt false is not supported: prompts are pooled with their texts")
    wanted = [name.removeprefix(_PREFIX) for name, on in raw.items() if name.startswith(_PREFIX) and on is True]
    if "pooling_mode" in raw:
        said = raw["pooling_mode"]
        wanted = [str(mode) for mode in said] if isinstance(said, list) else [str(said)]
    if len(wanted) != 1 or wanted[0] not in _MODES:
        named = ", ".join(wanted) or "nothing"
        raise CheckpointError(path, f"pools by {named}; supported is one of cls_token, mean_tokens, lasttoken")
    return _MODES[wanted[0]]

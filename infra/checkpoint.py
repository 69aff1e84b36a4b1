"""Finds the checkpoint a setting names, and settles what its configuration decides. Without torch."""

from __future__ import annotations

import importlib
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec

from engine.core.groups import Groups, group
from engine.core.tables import Tables
from engine.errors import CheckpointError, TemplateError, UnknownParser
from engine.models.dialects import find_dialect, reach, ropes, windows
from engine.models.families import FAMILIES
from engine.models.lora_config import read_lora_config
from engine.models.unwanted import UNWANTED
from engine.text.dialects import dialect
from engine.text.templates import ChatTemplate
from infra.configuration import ConfigurationWrong
from infra.errors import CheckpointNotFound
from infra.settings import EngineSettings

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 4}
_IN_FLIGHT = 2
"""Plans that a scheduler makes before the result of the first of them is in."""
_LONGEST = 32_768
"""Context taken when the model allows more and nothing is asked for, tokens."""


Tell = Callable[[str], None]
"""Told what is being done, now and then, from any thread."""


def resolve_engine(settings: EngineSettings, tell: Tell) -> EngineSettings:
    """Return the settings with a local model folder, a context length and, for given memory, a number of KV blocks.

    A hub id is downloaded, or what is missing of it; `tell` hears how far that is.

    Raises:
        ConfigurationWrong: there is no parser of a name, or the chat template cannot be used.
        CheckpointNotFound: no such folder, no such hub id, an architecture that is not ours, or a file is missing or
            cut short.
    """
    folder = _folder(settings, tell)
    template = _template(settings, folder)
    config, own, groups = _config(folder, settings.model)
    window = groups.window or 0
    _refuse_what_is_missing(folder, settings)
    length = settings.context_length or min(own, _LONGEST)
    if length > own:
        problem = f"a context of {length} tokens is more than the model's {own}"
        raise CheckpointNotFound(settings.model, problem, "give a smaller --context-length, or none")
    if settings.window > 0 and not 0 < window <= settings.window:
        problem = f"a window of {settings.window} tokens is less than what its layers see, {window or 'all'}"
        raise CheckpointNotFound(settings.model, problem, "leave engine.window out, or give 0")
    window = settings.window if settings.window >= 0 else window
    settled = msgspec.structs.replace(
        settings,
        model=str(folder),
        chat_template=template,
        context_length=length,
        window=window,
        adapters=_adapters(settings, tell),
    )
    if not settings.kv_blocks and not settings.kv_memory_mb:
        return settled
    blocks = settings.kv_blocks or settings.kv_memory_mb * (1 << 20) // _block_bytes(config, groups, settings)
    least = _tables(settled, groups).wanted(length) + 1
    return msgspec.structs.replace(settled, kv_blocks=max(blocks, least))


def _adapters(settings: EngineSettings, tell: Tell) -> dict[str, str]:
    """Give the folders of adapters, and see that they can be served as far as their configuration says.

    Raises:
        ConfigurationWrong: there is no such adapter, or it is of another kind.
    """
    found = {}
    for name, place in settings.adapters.items():
        try:
            folder = _downloaded(place, ["*.json", "*.safetensors"], tell) if is_hub_id(place) else Path(place)
            read_lora_config(folder)
        except (CheckpointError, CheckpointNotFound) as error:
            raise ConfigurationWrong("engine.adapters", "engine.adapters", f"{name!r}: {error}") from error
        found[name] = str(folder.absolute())
    return found


def _tables(settings: EngineSettings, groups: Groups) -> Tables:
    """Say what shape the scheduler's block tables have, given settled settings."""
    if not settings.window:
        return Tables(settings.block_size, groups.count)
    ahead = _IN_FLIGHT * min(settings.prefill_chunk, settings.max_step_tokens)
    return Tables(settings.block_size, groups.full, groups.windowed, settings.window, ahead)


def read_groups(model: str) -> Groups:
    """Say which layers of a model share KV blocks.

    Raises:
        CheckpointNotFound: the folder's config.json cannot be used.
    """
    return _config(Path(model), model)[2]


def _template(settings: EngineSettings, folder: Path) -> str:
    """Look at what is set of prompts and answers; give the template's file.

    Raises:
        ConfigurationWrong: there is no parser of a name, or the template cannot be used.
    """
    path = Path(settings.chat_template).absolute() if settings.chat_template else None
    try:
        dialect("", settings.tool_parser, settings.reasoning_parser)
        if path is not None:
            ChatTemplate.load(folder, path)
    except UnknownParser as error:
        key = f"engine.{error.setting}"
        raise ConfigurationWrong(key, key, error.problem) from error
    except CheckpointError as error:
        raise ConfigurationWrong("engine.chat_template", "engine.chat_template", error.problem) from error
    except TemplateError as error:
        raise ConfigurationWrong("engine.chat_template", "engine.chat_template", str(error)) from error
    return "" if path is None else str(path)


class _Entry(msgspec.Struct):
    """Where a tensor lies in a file of weights."""

    data_offsets: tuple[int, int]


_END: msgspec.json.Decoder[_Entry] = msgspec.json.Decoder(_Entry)


class _Kind(msgspec.Struct):
    """The part of `config.json` that says what kind of model it is."""

    architectures: tuple[str, ...] = ()


class _Config(msgspec.Struct):
    """The part of `config.json` that decides the KV cache's size."""

    num_hidden_layers: Annotated[int, msgspec.Meta(ge=1)]
    num_attention_heads: Annotated[int, msgspec.Meta(ge=1)]
    hidden_size: Annotated[int, msgspec.Meta(ge=1)]
    num_key_value_heads: Annotated[int, msgspec.Meta(ge=1)] | None = None
    head_dim: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_position_embeddings: Annotated[int, msgspec.Meta(ge=1)] = 2048


def _block_bytes(config: _Config, groups: Groups, settings: EngineSettings) -> int:
    heads = config.num_attention_heads
    width = config.head_dim or max(1, config.hidden_size // heads)
    per_token = 2 * groups.size * (config.num_key_value_heads or heads) * width
    return per_token * settings.block_size * _BYTES[settings.dtype]


def is_hub_id(model: str) -> bool:
    """Say whether a model's name is one of the hub, `OWNER/NAME`, and no folder here."""
    return not (Path(model).exists() or model.startswith((".", "/", "~")) or model.count("/") != 1)


def _folder(settings: EngineSettings, tell: Tell) -> Path:
    model = settings.model
    if is_hub_id(model):
        weights = ["*.safetensors"] if settings.load_format == "auto" else []
        return _downloaded(model, ["*.json", "*.jinja", *weights], tell)
    path = Path(model)
    if not path.is_dir():
        raise CheckpointNotFound(model, "there is no such folder")
    return path.absolute()


def _downloaded(model: str, files: list[str], tell: Tell) -> Path:
    hub = importlib.import_module("huggingface_hub")  # on demand: only those who name a hub id wait for it
    tell(f"asking the hub for {model}")
    over = threading.Event()
    try:
        wanted = {"allow_patterns": files, "ignore_patterns": list(UNWANTED)}
        found = hub.snapshot_download(model, **wanted, tqdm_class=_bar(model, tell, over))
    except (OSError, ValueError) as error:
        raise CheckpointNotFound(model, *_refused_by_hub(hub, error)) from error
    finally:
        over.set()
    return Path(found)


def _refused_by_hub(hub: Any, error: Exception) -> tuple[str, str]:
    """Say in our words what kept a model from being had, and what mends it."""
    errors = hub.errors
    if isinstance(error, errors.GatedRepoError):
        return "the hub lets only those have it who were given leave", "ask for it there, and set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such folder, and no such model on the hub", "mend the name, or set HF_TOKEN if it is private"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return "no such folder, and the hub cannot be reached", "give --model a folder, or try again with a connection"
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"no such folder, and the hub says: {reason}", "give --model a folder in Hugging Face layout, or a hub id"


def _bar(model: str, tell: Tell, over: threading.Event) -> type[Any]:
    """Make the class that the hub counts bytes with: it draws nothing and tells, until the download is over."""
    base = importlib.import_module("tqdm").tqdm

    def begin(bar: Any, *args: Any, name: str | None = None, **more: Any) -> None:
        base.__init__(bar, *args, **{**more, "file": io.StringIO(), "disable": False})

    def display(bar: Any, *_: Any, **__: Any) -> None:
        if bar.unit == "B" and bar.total and not over.is_set():
            total = max(1, round(bar.total / 1e6))
            tell(f"downloading {model}: {min(round(bar.n / 1e6), total)} of {total} MB")

    return type("Bar", (base,), {"__init__": begin, "display": display})


def _config(folder: Path, model: str) -> tuple[_Config, int, Groups]:
    """Read what decides the KV cache's size, the positions that the model can serve, and how far its layers see."""
    try:
        text = (folder / "config.json").read_bytes()
        kind = msgspec.json.decode(text, type=_Kind).architectures
        if kind and kind[0] not in FAMILIES:
            problem = f"architecture {kind[0]!r} is not supported"
            raise CheckpointNotFound(model, problem, f"supported are {', '.join(FAMILIES)}")
        if not kind:
            plain = msgspec.json.decode(text, type=_Config)
            return plain, plain.max_position_embeddings, group([None] * plain.num_hidden_layers)
        dialect = find_dialect(kind[0])
        raw = {**dialect.silent, **msgspec.json.decode(text, type=dict[str, Any])}
        own = min(reach(raw, rope) for rope in ropes(raw, dialect))
        return msgspec.convert(raw, _Config), own, group(windows(raw, dialect))
    except FileNotFoundError as error:
        raise CheckpointNotFound(model, "there is no config.json in it") from error
    except KeyError as error:
        raise CheckpointNotFound(model, f"its config.json lacks the key {error.args[0]!r}") from error
    except (OSError, TypeError, ValueError, AttributeError) as error:  # a DecodeError is a ValueError
        raise CheckpointNotFound(model, f"its config.json cannot be used: {error}") from error


def _refuse_what_is_missing(folder: Path, settings: EngineSettings) -> None:
    """See at once what a worker would find out after seconds."""
    model = settings.model
    if not (folder / "tokenizer.json").exists():
        mend = "save the tokenizer beside the weights (`AutoTokenizer…save_pretrained`)"
        raise CheckpointNotFound(model, "there is no tokenizer.json in it", mend)
    if settings.load_format == "dummy":
        return
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        problem = "there are no weights in it (model.safetensors, or parts of it)"
        raise CheckpointNotFound(model, problem, "save them as safetensors")
    for file in weights:
        if _cut_short(file):
            raise CheckpointNotFound(model, f"{file.name} is damaged or cut short", "download it again")


def _cut_short(file: Path) -> bool:
    """Compare a file's size with what its header says (https://huggingface.co/docs/safetensors, format)."""
    size = file.stat().st_size
    with file.open("rb") as weights:
        header = int.from_bytes(weights.read(8), "little")
        if not 2 <= header <= size - 8:
            return True
        try:
            entries = msgspec.json.decode(weights.read(header), type=dict[str, msgspec.Raw])
            ends = [_END.decode(entry).data_offsets[1] for name, entry in entries.items() if name != "__metadata__"]
        except msgspec.DecodeError:
            return True
    return size != 8 + header + max(ends, default=0)

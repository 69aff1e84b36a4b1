"""Texts to vectors, labels and scores, offline: a checkpoint in this process that gives no tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.errors import BadRequest, NotFinite
from engine.models.pooled import Pooled, load_pooled
from engine.models.sentence import POOLINGS, Pooling, read_limit, read_prompts
from engine.models.weights import find_checkpoint
from engine.platforms import Dtype, detect
from engine.progress import Bar, Rates, UseTqdm
from engine.text.framed import Framed, Framer, Text, TooLong, listed

Vector = npt.NDArray[np.float32]

_BATCH_TOKENS: Final = 8192
_SHORTEST: Final = np.float32(1e-12)
"""A vector that is nothing is divided by this."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document among others."""

    index: int
    """Its place in the list that was given."""
    document: str
    score: float


class Pooler:
    """A model of whole texts, run in the calling thread.

    Texts are read as the checkpoint's tokenizer reads them: a special token that is spelled out in one is that token.
    On a processor a text's numbers do not depend on the texts beside it.
    """

    def __init__(self, model: Pooled, folder: Path, batch_tokens: int = _BATCH_TOKENS) -> None:
        """Make one of a model that is loaded; no more than `batch_tokens` are computed at once, unless of one text.

        Raises:
            CheckpointError: The folder has no tokenizer, or what is beside it cannot be read.
            BadRequest: `batch_tokens` is not positive.
        """
        if batch_tokens < 1:
            raise BadRequest("batch_tokens", f"is {batch_tokens}, which is not positive")
        self._model = model
        self._framer = Framer(folder, read_limit(folder, model.states.context_length))
        self._prompts = read_prompts(folder)
        self._batch_tokens = batch_tokens

    @property
    def width(self) -> int:
        """Of a vector."""
        return self._model.states.width

    @property
    def context_length(self) -> int:
        """Tokens of a text at most, those included that the tokenizer puts around it."""
        return self._framer.limit

    @property
    def labels(self) -> tuple[str, ...]:
        """What texts are told apart by; empty where the model gives vectors."""
        return self._model.labels

    def embed(
        self,
        texts: Sequence[str],
        *,
        dimensions: int | None = None,
        prompt: str | None = None,
        too_long: TooLong = "cut",
        use_tqdm: UseTqdm = None,
    ) -> list[Vector]:
        """Return a vector of length one for each text.

        Args:
            texts: None of them empty.
            dimensions: Only so many, the first ones: for models that were trained for it. Kusupati et al. 2022,
                arXiv 2205.13147.
            prompt: The name of what is put before every text, one of the checkpoint's own prompts.
            too_long: Texts that are longer than the context are cut, or refused.
            use_tqdm: Whether a bar shows how many are done: see `engine.progress.UseTqdm`.

        Raises:
            BadRequest: A text is empty or too long, an argument does not fit the model, or it gives no vectors.
            NotFinite: The model computed a number that is none.
        """
        framed = self._texts(texts, dimensions, too_long, self._before(prompt))
        return [_normal(vector[:dimensions]) for vector in self._compute(framed, use_tqdm)]

    def embed_and_count(
        self, texts: Sequence[str | Sequence[int]], *, dimensions: int | None = None, too_long: TooLong = "cut"
    ) -> tuple[list[Vector], list[int]]:
        """Do as `embed` does; return how many tokens each text has, too. A text may be given as its tokens, with those
        that the tokenizer puts around it.

        Raises:
            BadRequest: As `embed`.
            NotFinite: As `embed`.
        """
        framed = self._texts(texts, dimensions, too_long, self._before(None))
        vectors = [_normal(vector[:dimensions]) for vector in self._compute(framed, None)]
        return vectors, [len(text.tokens) for text in framed]

    def _texts(
        self, texts: Sequence[str | Sequence[int]], dimensions: int | None, too_long: TooLong, before: str
    ) -> list[Framed]:
        """Read what is to become vectors."""
        if self._model.head is not None:
            raise BadRequest("model", "it gives labels, not vectors: ask `classify`, or `score` if it has one label")
        if dimensions is not None and not 1 <= dimensions <= self.width:
            raise BadRequest("dimensions", f"is {dimensions}; the model has 1 to {self.width}")
        return self._framed(texts, too_long, before)

    def _framed(self, texts: Sequence[str | Sequence[int]], too_long: TooLong, before: str) -> list[Framed]:
        listed("texts", texts)
        if all(isinstance(text, str) for text in texts):
            return self._framer.frame("texts", [str(text) for text in texts], too_long, before)
        framed = list[Framed]()
        for at, text in enumerate(texts):
            if isinstance(text, str):
                framed += self._framer.frame(f"texts[{at}]", [text], too_long, before)
            else:
                framed.append(self._framer.taken(f"texts[{at}]", text, too_long))
        return framed

    def classify(
        self, texts: Sequence[Text], *, too_long: TooLong = "cut", use_tqdm: UseTqdm = None
    ) -> list[dict[str, float]]:
        """Return the probability of every label for each text or pair of texts.

        They come to one, unless the model was trained for labels that do not exclude each other, or has only one.

        Raises:
            BadRequest: A text is empty or too long, or the model gives no labels.
        """
        self._refuse_unlabelled()
        framed = self._framer.frame("texts", texts, too_long)
        return [dict(zip(self.labels, chances, strict=True)) for chances in self._chances(framed, use_tqdm)]

    def classify_and_count(
        self, texts: Sequence[str | Sequence[int]], *, too_long: TooLong = "cut"
    ) -> tuple[list[list[float]], int]:
        """Do as `classify` does, in the order of `labels`; return how many tokens were computed, too. A text may be
        given as its tokens, with those that the tokenizer puts around it.

        Raises:
            BadRequest: As `classify`.
            NotFinite: As `embed`.
        """
        self._refuse_unlabelled()
        framed = self._framed(texts, too_long, "")
        return self._chances(framed, None), sum(len(text.tokens) for text in framed)

    def _refuse_unlabelled(self) -> None:
        if self._model.head is None:
            raise BadRequest("model", "it gives vectors, not labels: ask `embed`")

    def _chances(self, framed: Sequence[Framed], use_tqdm: UseTqdm) -> list[list[float]]:
        apart = self._model.independent or len(self.labels) == 1
        weigh = _sigmoid if apart else _softmax
        return [weigh(logits).tolist() for logits in self._compute(framed, use_tqdm)]

    def score(
        self, pairs: Sequence[tuple[str, str]], *, too_long: TooLong = "cut", use_tqdm: UseTqdm = None
    ) -> list[float]:
        """Return how well the texts of each pair match.

        A model with one label sees both together, and its logit becomes a number between 0 and 1, unless the checkpoint
        says that it is to stay as it is. Of a model that gives vectors it is their cosine.

        Raises:
            BadRequest: A text is empty or too long, or the model has several labels.
        """
        return self.score_and_count(pairs, too_long=too_long, use_tqdm=use_tqdm)[0]

    def score_and_count(
        self, pairs: Sequence[tuple[str, str]], *, too_long: TooLong = "cut", use_tqdm: UseTqdm = None
    ) -> tuple[list[float], int]:
        """Do as `score` does; return how many tokens were computed, too.

        Raises:
            BadRequest: As `score`.
        """
        listed("pairs", pairs)
        if self._model.head is None:
            different = list(dict.fromkeys(text for pair in pairs for text in pair))
            framed = self._texts(different, None, too_long, self._before(None))
            vectors = [_normal(vector) for vector in self._compute(framed, use_tqdm)]
            where = dict(zip(different, vectors, strict=True))
            cosines = [float(where[one] @ where[other]) for one, other in pairs]
            return cosines, sum(len(text.tokens) for text in framed)
        if len(self.labels) != 1:
            raise BadRequest("model", f"it has {len(self.labels)} labels, a score needs one: ask `classify`")
        framed = self._framer.frame("pairs", pairs, too_long)
        weigh = _sigmoid if self._model.activation == "sigmoid" else np.asarray
        scores = [float(weigh(logits)[0]) for logits in self._compute(framed, use_tqdm)]
        return scores, sum(len(text.tokens) for text in framed)

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        top_n: int | None = None,
        *,
        too_long: TooLong = "cut",
        use_tqdm: UseTqdm = None,
    ) -> list[Ranked]:
        """Return the documents that match a query best, the best one first; `None` is all of them.

        Raises:
            BadRequest: A text is empty or too long, `top_n` is not positive, or the model has several labels.
        """
        listed("documents", documents)
        if top_n is not None and top_n < 1:
            raise BadRequest("top_n", f"is {top_n}, which is not positive")
        scores = self.score([(query, document) for document in documents], too_long=too_long, use_tqdm=use_tqdm)
        ranked = [Ranked(i, *both) for i, both in enumerate(zip(documents, scores, strict=True))]
        return sorted(ranked, key=lambda one: -one.score)[:top_n]

    def _before(self, prompt: str | None) -> str:
        """Return the text of a prompt."""
        name = self._prompts.default if prompt is None else prompt
        if name is None:
            return ""
        if name not in self._prompts.texts:
            known = ", ".join(sorted(self._prompts.texts)) or "none"
            raise BadRequest("prompt", f"{name!r} is not one of the checkpoint's, which are: {known}")
        return self._prompts.texts[name]

    def _compute(self, framed: Sequence[Framed], use_tqdm: UseTqdm) -> list[Vector]:
        """Return what the model makes of each text: its pooled state, or the logits of its labels."""
        found: dict[int, Vector] = {}
        with Bar(use_tqdm, "texts", len(framed), unit="text") as bar:
            rates = Rates()
            for batch in _batches(framed, self._batch_tokens):
                for i, numbers in zip(batch, self._run([framed[i] for i in batch]), strict=True):
                    if not np.isfinite(numbers).all():
                        raise NotFinite(i)
                    found[i] = numbers
                rates.add(input=sum(len(framed[i].tokens) for i in batch))
                bar.add(len(batch), rates.__str__)
        return [found[i] for i in range(len(framed))]

    @torch.inference_mode()
    def _run(self, texts: Sequence[Framed]) -> list[Vector]:
        """Compute a batch, the shorter texts ahead."""
        states, head = self._model.states, self._model.head
        counts = [len(text.tokens) for text in texts]
        tokens, segments = (
            torch.from_numpy(np.concatenate(parts)).to(states.device)
            for parts in zip(*((text.tokens, text.segments) for text in texts), strict=True)
        )
        hidden = states(tokens, segments, counts)
        # one by one: what is computed of a text has the same shapes whatever is beside it
        rows = [self._pool(own, text) for own, text in zip(hidden.split_with_sizes(counts), texts, strict=True)]
        made = [row.float() if head is None else head(row[None].to(hidden.dtype))[0] for row in rows]
        return list(torch.stack(made).cpu().numpy())

    def _pool(self, states: Tensor, text: Framed) -> Tensor:
        """[tokens, width] -> [width]."""
        match self._model.pooling:
            case "cls":
                return states[0]
            case "mean":
                return states.float().mean(0)
            case "last":
                return states[_last(text.tokens, self._model.padding)]


def load_pooler(
    path_or_id: str,
    *,
    device: str = "auto",
    dtype: Dtype = "auto",
    pooling: Pooling | None = None,
    batch_tokens: int = _BATCH_TOKENS,
    use_tqdm: UseTqdm = None,
) -> Pooler:
    """Load a checkpoint folder or hub model, without the memory that one that writes needs.

    Args:
        path_or_id: An encoder, a classifier or cross-encoder, or a decoder whose states are to be pooled.
        device: `auto` for the best there is.
        dtype: Of the computation; results are float32.
        pooling: Overrides what the checkpoint says; a head has its own.
        batch_tokens: So many are computed at once; a longer text is computed alone.
        use_tqdm: Whether a bar shows how far the weights are.

    Raises:
        CheckpointError: The checkpoint is not there or not whole.
        UnsupportedModel: Its architecture is not one of ours.
        NotEnoughMemory: The weights do not fit.
        PlatformUnavailable: The device is not there.
        BadRequest: `batch_tokens` is not positive, or `pooling` is no way that we have.
    """
    known_pooling(pooling)
    folder = find_checkpoint(path_or_id, use_tqdm=use_tqdm)
    return Pooler(load_pooled(folder, detect(device), dtype, pooling, use_tqdm), folder, batch_tokens)


def known_pooling(pooling: Pooling | None) -> None:
    """Look at what is asked for.

    Raises:
        BadRequest: It is no way that we have.
    """
    if pooling is not None and pooling not in POOLINGS:
        raise BadRequest("pooling", f"{pooling!r} is none of {', '.join(POOLINGS)}")


def _batches(framed: Sequence[Framed], budget: int) -> Iterator[list[int]]:
    """Part texts, by their places: neighbours go together while they are within the budget, the shorter ones ahead."""
    batch: list[int] = []
    tokens = 0
    for i, text in enumerate(framed):
        if batch and tokens + len(text.tokens) > budget:
            yield sorted(batch, key=lambda place: len(framed[place].tokens))
            batch, tokens = [], 0
        batch.append(i)
        tokens += len(text.tokens)
    if batch:
        yield sorted(batch, key=lambda place: len(framed[place].tokens))


def _last(tokens: Sequence[int], padding: int | None) -> int:
    """Return the place of the last token that is not padding; of a text that is nothing else, the first."""
    return next((i for i in reversed(range(len(tokens))) if tokens[i] != padding), 0)


def _normal(vector: Vector) -> Vector:
    """Return a vector of the same direction and length one."""
    length = np.sqrt(np.square(vector).sum())
    scaled: Vector = np.divide(vector, np.maximum(length, _SHORTEST), dtype=np.float32)
    return scaled


def _sigmoid(logits: Vector) -> Vector:
    # written so that no power gets too large
    return np.asarray((np.tanh(logits / 2) + 1) / 2, np.float32)


def _softmax(logits: Vector) -> Vector:
    odds = np.exp(logits - logits.max())
    shares: Vector = np.divide(odds, odds.sum(), dtype=np.float32)
    return shares

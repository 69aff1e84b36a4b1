"""The grammars that a worker has compiled, the latest; safe to be used from several threads.

The backend is made when the first grammar comes: reading a large vocabulary takes a second, and most workers never
need it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Final

from engine.errors import BadRequest
from engine.structured.checks import check
from engine.structured.grammar import Backend, Grammar, GrammarError, Vocabulary
from schemas.structured import Structured

log = logging.getLogger(__name__)

MOST_KEPT: Final = 512


class Grammars:
    """Compiles grammars and remembers them."""

    def __init__(self, backend: Callable[[Vocabulary], Backend], vocabulary: Callable[[], Vocabulary]) -> None:
        """Make it; neither the backend nor the vocabulary is made before there is something to compile."""
        self._make = backend
        self._vocabulary = vocabulary
        self._backend: Backend | None = None
        self._kept: OrderedDict[str, Grammar] = OrderedDict()
        self._compiling, self._keeping = Lock(), Lock()

    def prepare(self, structured: Structured) -> str:
        """Compile a grammar if it is not there; say what is wrong with it, or nothing."""
        try:
            self.get(structured)
        except (GrammarError, BadRequest) as error:
            return str(error)
        except Exception as error:
            # a backend may be anybody's
            log.exception("the grammar backend broke")
            return f"the grammar backend broke: {error!r}"
        return ""

    def get(self, structured: Structured) -> Grammar:
        """Give a grammar. One that was prepared is there unless very many came after it.

        Raises:
            GrammarError: It is none.
            BadRequest: It is too large, or not what its kind says.
        """
        key = structured.key()
        found = self._find(key)
        if found is None:
            check(structured)
            with self._compiling:
                found = self._find(key) or self._ready_backend().compile(structured)
            self._keep(key, found)
        return found

    def _find(self, key: str) -> Grammar | None:
        with self._keeping:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: str, grammar: Grammar) -> None:
        with self._keeping:
            self._kept[key] = grammar
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)

    def _ready_backend(self) -> Backend:
        if self._backend is None:
            self._backend = self._make(self._vocabulary())
        return self._backend

"""What kept to a grammar in company comes out again alone."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from engine.models.registry import load_model
from engine.platforms import detect
from engine.runner.loading import vocabulary
from engine.structured.compiler import Grammars
from engine.structured.guidance import Guidance
from schemas.generation import Sampling
from schemas.structured import Structured
from tests.engine.structured.conftest import SIZE
from tests.engine.test_regeneration import Bench, submit


def test_answers_that_keep_to_a_grammar_come_out_again(folder: Path) -> None:
    model = load_model(folder, detect("cpu"))
    grammars = Grammars(Guidance, lambda: vocabulary(folder, model.config))
    bench = Bench(folder, grammars)
    schema = '{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"integer"}},"required":["a","b"]}'
    forms = {
        "json": Structured("json_schema", schema),
        "choice": Structured("choice", choices=("yes", "no", "perhaps")),
        "regex": Structured("regex", "[a-z]{4,9}-[0-9]{2}"),
    }
    asked = [
        replace(
            submit(name, 20 + at),
            prompt=tuple((31 * place + at) % SIZE for place in range(20 + at)),
            sampling=Sampling(
                temperature=1.0, seed=at, max_tokens=12 + 20 * at, stop_tokens=(0,), structured=structured
            ),
        )
        for at, (name, structured) in enumerate(forms.items())
    ]
    found = bench.run(asked, {"blocks": 30, "prefill_chunk": 7}, (8,))
    for one in asked:
        transcript = found.of(one.request)
        assert transcript.count > 1
        assert bench.again(transcript) is None, one.request

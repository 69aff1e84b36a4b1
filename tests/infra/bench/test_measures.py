"""What a measurement comes to, under vLLM's names."""

from __future__ import annotations

import pytest

from infra.bench.measures import Sample, summary, table

FAST = Sample(0.0, 1.0, 0.2, (0.4, 0.4), 10, 3)
SLOW = Sample(1.0, 4.0, 2.0, (2.0,), 20, 2)
BROKEN = Sample(0.0, 9.0, None, (), 5, 0, "refused")


def test_times_and_rates_are_counted_over_requests_that_were_answered() -> None:
    told = summary([FAST, SLOW, BROKEN], 4.0, (50, 99))
    assert (told["completed"], told["failed"]) == (2, 1)
    assert (told["total_input_tokens"], told["total_output_tokens"]) == (30, 5)
    assert (told["request_throughput"], told["output_throughput"], told["total_token_throughput"]) == (0.5, 1.25, 8.75)
    assert told["mean_ttft_ms"] == pytest.approx(600)
    assert told["median_e2el_ms"] == told["p50_e2el_ms"] == pytest.approx(2000)
    assert told["mean_tpot_ms"] == pytest.approx((400 + 2000) / 2)
    assert told["mean_itl_ms"] == pytest.approx((400 + 400 + 2000) / 3)
    assert told["p99_ttft_ms"] == pytest.approx(200 + 0.99 * 800)
    assert "request_goodput" not in told


@pytest.mark.parametrize(
    ("limits", "good"),
    [({"ttft": 500}, 1), ({"ttft": 1500}, 2), ({"ttft": 1500, "tpot": 500}, 1), ({"e2el": 100}, 0)],
)
def test_a_good_request_keeps_every_limit(limits: dict[str, float], good: int) -> None:
    assert summary([FAST, SLOW, BROKEN], 1.0, (), limits)["request_goodput"] == good


def test_a_measurement_without_answers_can_be_told() -> None:
    assert "0 requests in 1.00 s, 1 failed" in table(summary([BROKEN], 1.0))

"""What the dashboard and the alerts ask Prometheus for: which metrics, and which labels of theirs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

DEPLOY = Path(__file__).parents[3] / "infra" / "deploy"
_WORDS = frozenset(
    ["by", "on", "sum", "rate", "count", "increase", "histogram_quantile", "and", "or", "vector", "label_values"]
)


class Asked(NamedTuple):
    """What an expression asks for."""

    metrics: frozenset[str]
    labels: frozenset[str]


def alert_rules() -> list[dict[str, Any]]:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
    return [rule for group in rules["groups"] for rule in group["rules"]]


def dashboard() -> list[str]:
    board = json.loads((DEPLOY / "grafana" / "ostinato.json").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    return [*asked, *(one["query"]["query"] for one in board["templating"]["list"] if one["type"] == "query")]


EXPRESSIONS = [*dashboard(), *(rule["expr"] for rule in alert_rules())]


def asked_by(expression: str) -> Asked:
    """Read an expression."""
    plain = re.sub(r'"[^"]*"|\[[^]]*\]', "", expression)
    names = re.findall(r"[a-z_]*:?[a-z_0-9]+", re.sub(r"\{[^}]*\}|(?:by|on) \([^)]*\)", "", plain))
    metrics = {name for name in names if not name[0].isdigit() and name not in _WORDS and name != "e9"}
    labels = {label for inside in re.findall(r"(?:by|on) \(([^)]*)\)", plain) for label in inside.split(", ")}
    labels |= {label for inside in re.findall(r"\{([^}]*)\}", plain) for label in re.findall(r"[a-z_]+", inside)}
    if "label_values" in expression:
        metrics, labels = metrics - {"model_name"}, {"model_name"}
    return Asked(frozenset(metrics), frozenset(labels))

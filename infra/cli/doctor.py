"""`ostinato doctor`: what would break a stack on this machine, and what mends it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from infra.cli.terminal import Style, printable, style_for
from infra.configuration import configure
from infra.doctor.examination import examine
from infra.doctor.finding import Finding
from infra.doctor.probes import Patient, checks


def main(options: argparse.Namespace) -> int:
    """Examine, report, and return 1 if something would break."""
    given = {key: value for key in ("host", "port", "nats", "postgres") if (value := getattr(options, key)) is not None}
    settings = configure(given, options.config, os.environ, {}).settings
    findings = examine(checks(Patient(Path(options.data), settings)))
    broken = any(finding.level == "problem" for finding in findings)
    if options.json:
        report = {"ok": not broken, "findings": findings}
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        sys.stdout.write(told(findings, style_for(sys.stdout)))
    return int(broken)


def told(findings: Sequence[Finding], style: Style) -> str:
    """Write a line for each finding."""
    width = max(len(finding.check) for finding in findings)
    return "".join(_line(finding, width, style) + "\n" for finding in findings)


def _line(finding: Finding, width: int, style: Style) -> str:
    level = f"{finding.level:<7}"
    marked = {"ok": style.aside, "warning": style.name, "problem": style.problem}[finding.level](level)
    mend = f": {finding.mend}" if finding.mend else ""
    return f"{marked}  {style.name(finding.check.ljust(width))}  {printable(finding.says + mend)}"

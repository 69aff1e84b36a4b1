"""The verbs of `ostinato thread`, as the command line takes them."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def add_thread_verbs(
    parser: argparse.ArgumentParser,
    told: Callable[..., argparse.ArgumentParser],
    data: Callable[[argparse.ArgumentParser], None],
) -> None:
    """Add them: `told` adds a verb, `data` its data directory."""
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    create = told(verbs, "create", "begin a thread before anything is said in it")
    rename = told(verbs, "rename", "give a thread another title, or other metadata")
    delete = told(verbs, "delete", "end a thread for good: nothing of it is shown any more")
    create.add_argument("thread", metavar="THREAD", nargs="?", help="its id (default: a new one)")
    create.add_argument("--resource", default="", help="the person or project that it belongs to")
    delete.add_argument("--reason", default="", help="why, for the record")
    for verb in (rename, delete):
        verb.add_argument("thread", metavar="THREAD", help="which one")
    for verb in (create, rename):
        verb.add_argument("--title", default=None, help="what it is called")
        verb.add_argument(
            "--metadata", action="append", default=[], metavar="NAME=VALUE", help="a note; may be given again"
        )
    for verb in (create, rename, delete):
        verb.set_defaults(module="infra.cli.threads", verb=verb.prog.rpartition(" ")[2])
        verb.add_argument("--tenant", default="default", help="whose thread (default: %(default)s)")
        verb.add_argument("--json", action="store_true", help="print what became of it as a JSON line")
        data(verb)

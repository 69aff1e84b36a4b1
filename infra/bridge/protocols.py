"""The routes of all protocols beside OpenAI's oldest two."""

from __future__ import annotations

from infra.bridge.a2a.routes import a2a_doors
from infra.bridge.about import about_doors
from infra.bridge.agui.routes import agui_doors
from infra.bridge.aisdk.routes import aisdk_doors
from infra.bridge.anthropic.routes import anthropic_doors
from infra.bridge.desk import Desk
from infra.bridge.doors import Door, Wing
from infra.bridge.mcp.routes import mcp_doors
from infra.bridge.pooling.routes import pooling_doors
from infra.bridge.responses.routes import responses_doors
from infra.bridge.rest.routes import rest_doors
from infra.bridge.sessions import session_doors
from infra.bridge.tokenizing import tokenizing_doors


def protocol_doors(desk: Desk) -> list[Door | Wing]:
    """List them."""
    return [
        *anthropic_doors(desk),
        *responses_doors(desk),
        *aisdk_doors(desk),
        *agui_doors(desk),
        *pooling_doors(desk),
        *tokenizing_doors(desk),
        *session_doors(desk),
        *about_doors(desk),
        *rest_doors(desk),
        *mcp_doors(desk),
        *a2a_doors(desk),
    ]

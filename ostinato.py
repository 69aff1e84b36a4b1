"""The public Python API, whole: what an agent author imports.

Doubles for tests are in `actors.testing`, shapes of the wire in `schemas`.
"""

from actors.agent.around_tools import Answered, ToolUse, ToolUsed
from actors.agent.definition import Agent
from actors.agent.hooks import RunEnd, StepChanges, StepView
from actors.agent.judge import GoalVerdict, GoalView
from actors.agent.modes import Mode
from actors.agent.selection import ModelSelection
from actors.agent.standing import Goal, Standing
from actors.built_in.asking import ask_user
from actors.built_in.planning import submit_plan, switch_mode
from actors.built_in.task_list import TaskItem, TaskList
from actors.built_in.web import Fetcher, web_fetch
from actors.classifier import Choice, Classified, Classifier, Score, YesNo
from actors.delegates import Delegated, Delegation, Refused, agent_tool, handoff
from actors.errors import CallFailed, DefinitionError, InDoubt
from actors.mcp_tools import McpTools
from actors.memory.embedding import Embedder, WordEmbedder
from actors.memory.plan import Memory
from actors.models.embedding import RoutedEmbedder
from actors.permissions import Permission, Permitted, allow, ask, deny
from actors.processors.answers import SchemaValidator, StructuredOutput, SystemPromptScrubber
from actors.processors.classified import ClassifierProcessor
from actors.processors.costs import CostControl
from actors.processors.finding import Skill, Skills, ToolSearch
from actors.processors.judged import (
    Judged,
    language_detector,
    moderation,
    personal_data_detector,
    prompt_injection_detector,
)
from actors.processors.patterns import RegexFilter
from actors.processors.processor import About, Processor, Tripped
from actors.processors.prompts import TokenLimiter, ToolCallFilter
from actors.processors.recall import SemanticRecall
from actors.processors.texts import BatchParts, UnicodeNormalizer
from actors.processors.translation import Translator
from actors.request_context import RequestContext
from actors.tools import Tool, ToolContext, client_tool, tool
from actors.toolsets import (
    Approval,
    Combined,
    Filtered,
    Fixed,
    Prefixed,
    Renamed,
    Services,
    Surroundings,
    Toolset,
)
from infra.answers import Answer
from infra.client import Client, connect
from infra.errors import Joined, NoAnswer, ScheduleUnfit, SettlementRefused, ThreadUnfit
from infra.inline import inline
from infra.running import Running, Waiting
from schemas.models import ModelChain, ModelEntry

__all__ = [
    "About",
    "Agent",
    "Answer",
    "Answered",
    "Approval",
    "BatchParts",
    "CallFailed",
    "Choice",
    "Classified",
    "Classifier",
    "ClassifierProcessor",
    "Client",
    "Combined",
    "CostControl",
    "DefinitionError",
    "Delegated",
    "Delegation",
    "Embedder",
    "Fetcher",
    "Filtered",
    "Fixed",
    "Goal",
    "GoalVerdict",
    "GoalView",
    "InDoubt",
    "Joined",
    "Judged",
    "McpTools",
    "Memory",
    "Mode",
    "ModelChain",
    "ModelEntry",
    "ModelSelection",
    "NoAnswer",
    "Permission",
    "Permitted",
    "Prefixed",
    "Processor",
    "Refused",
    "RegexFilter",
    "Renamed",
    "RequestContext",
    "RoutedEmbedder",
    "RunEnd",
    "Running",
    "ScheduleUnfit",
    "SchemaValidator",
    "Score",
    "SemanticRecall",
    "Services",
    "SettlementRefused",
    "Skill",
    "Skills",
    "Standing",
    "StepChanges",
    "StepView",
    "StructuredOutput",
    "Surroundings",
    "SystemPromptScrubber",
    "TaskItem",
    "TaskList",
    "ThreadUnfit",
    "TokenLimiter",
    "Tool",
    "ToolCallFilter",
    "ToolContext",
    "ToolSearch",
    "ToolUse",
    "ToolUsed",
    "Toolset",
    "Translator",
    "Tripped",
    "UnicodeNormalizer",
    "Waiting",
    "WordEmbedder",
    "YesNo",
    "agent_tool",
    "allow",
    "ask",
    "ask_user",
    "client_tool",
    "connect",
    "deny",
    "handoff",
    "inline",
    "language_detector",
    "moderation",
    "personal_data_detector",
    "prompt_injection_detector",
    "submit_plan",
    "switch_mode",
    "tool",
    "web_fetch",
]

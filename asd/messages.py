"""A conversation as chat models read it: messages with roles, checked where they enter.

Roles and contents only; how a model reads them is its chat template's business (`asd.engines.prompts`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from asd.errors import ConfigError

__all__ = ["ROLES", "Message", "as_messages"]

ROLES = ("system", "developer", "user", "assistant", "tool")
"""Those that chat templates may know; which of them a model takes, its own template decides."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation; `role` is one of `ROLES`, `content` its text."""

    role: str
    content: str


def as_messages(messages: Iterable[Message | Mapping[str, str]]) -> tuple[Message, ...]:
    """A conversation that a model can answer.

    Args:
        messages: In their order; plain dicts have the keys "role" and "content".

    Raises:
        ConfigError: There is none, the last is not the user's, a role is unknown, a content is empty or not
            text, or a dict has other keys.
    """
    if isinstance(messages, str | Mapping):
        raise ConfigError(f"messages are {messages!r}; give a list of them, each with role and content")
    found = tuple(_message(number, message) for number, message in enumerate(messages, start=1))
    if not found or found[-1].role != "user":
        last = f"ends with a message of role {found[-1].role!r}" if found else "has no messages"
        raise ConfigError(f"the conversation {last}; its last message must be the user's")
    return found


def _message(number: int, given: Message | Mapping[str, str]) -> Message:
    where = f"message {number} of the conversation"
    if isinstance(given, Mapping):
        if given.keys() != {"role", "content"}:
            raise ConfigError(f"{where} has the keys {sorted(given)}; give role and content, nothing else")
        given = Message(given["role"], given["content"])
    if not isinstance(given, Message):
        raise ConfigError(f"{where} is {given!r}; give asd.Message(role, content) or a dict of both")
    if given.role not in ROLES:
        raise ConfigError(f"{where} has role {given.role!r}; known roles are {', '.join(ROLES)}")
    if not isinstance(given.content, str) or not given.content.strip():
        raise ConfigError(f"{where} has content {given.content!r}; give text that is not empty")
    return given

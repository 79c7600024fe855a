"""The API key of a server: read from the environment, checked, and kept out of everything that is shown.

A key may only be named (`api_key_env`), never written into a ladder. It leaves this module in one place, the
header of a request.
"""

from __future__ import annotations

import html
import json
import os
import re
from urllib.parse import quote, quote_plus

from asd.errors import ConfigError

__all__ = ["Key", "read_key", "without_credentials"]

HIDDEN = "***"


class Key:
    """An API key, or none; its repr does not show it.

    Args:
        value: Printable, of latin-1; "" where the server wants no key.
    """

    __slots__ = ("_forms", "_value")

    def __init__(self, value: str = "") -> None:
        self._value = value
        sent = value.encode("latin-1")
        read = {value, sent.decode("utf-8", "replace"), value.encode().decode("latin-1")}
        forms = sorted({form for text in read for form in _quoted(text) if form}, key=len, reverse=True)
        self._forms = re.compile("|".join(map(re.escape, forms)), re.IGNORECASE) if forms else None

    def __repr__(self) -> str:
        return f"Key({HIDDEN!r})"

    @property
    def headers(self) -> dict[bytes, bytes]:
        """What a request carries."""
        return {b"Authorization": b"Bearer " + self._value.encode("latin-1")} if self._value else {}

    def scrubbed(self, text: str) -> str:
        """The text without the key, as it stands or escaped as JSON, HTML, URLs and Python write it.

        Its bytes may have been read in another encoding than they were sent in.
        """
        return self._forms.sub(HIDDEN, text) if self._forms else text


def _quoted(text: str) -> tuple[str, ...]:
    once = json.dumps(text)[1:-1]
    urls = (quote(text, safe=""), quote(text), quote_plus(text))
    return text, repr(text)[1:-1], ascii(text)[1:-1], once, json.dumps(once)[1:-1], html.escape(text), *urls


def read_key(stage_name: str, variable: str | None) -> Key:
    """The key in an environment variable, without the white space around it.

    Args:
        stage_name: For messages.
        variable: Name of the variable; None: no key.

    Raises:
        ConfigError: `variable` is no name of a variable, or the variable is not set, is empty, or holds what
            no header can carry. The message holds neither the value nor what may be a key given as a name.
    """
    if variable is None:
        return Key()
    if not re.fullmatch(r"[A-Za-z_]\w*", variable, re.ASCII):
        raise ConfigError(
            f"stage {stage_name!r}: api_key_env is not the name of an environment variable; put the key into "
            "a variable and name that"
        )
    if variable not in os.environ:
        name = variable if variable.isupper() else "that api_key_env names"
        raise ConfigError(
            f"stage {stage_name!r} wants its API key in the environment variable {name}, which is not set"
        )
    value = os.environ[variable].strip()
    where = f"stage {stage_name!r} wants its API key in the environment variable {variable}"
    if not value:
        raise ConfigError(f"{where}, which is empty; set it to the key")
    if not value.isprintable() or any(ord(character) > 0xFF for character in value):
        raise ConfigError(
            f"{where}, which holds line ends, control or other characters that no HTTP header can carry; set "
            "it to the key alone"
        )
    return Key(value)


def without_credentials(url: str) -> str:
    """A URL to be shown: without user, password, query and fragment."""
    before, at, after = re.split(r"[?#]", url)[0].rpartition("@")
    scheme = re.match(r"\w+://", before)
    return f"{scheme[0] if scheme else ''}{HIDDEN}@{after}" if at else after

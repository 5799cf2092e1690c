"""Addresses of files and folders: `protocol://place`, as fsspec has them, without anything that is secret."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from gcnrec.errors import UsageError, shown

_PROTOCOL = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*::)*[A-Za-z][A-Za-z0-9+.-]*://")
_SECRET = re.compile(r"(?<=://)([^/@\s:]*):\S*@")
"""A user and what follows up to the last @: keys of stores hold slashes, passwords may hold @."""
_WEB_USER = re.compile(r"(?<=http://|ttps://)[^/@\s:]+@", re.IGNORECASE)
"""A user alone, which is a token where a web server is asked."""
_QUERY = re.compile(r"(://[^?#\s'\"]*)([?#])[^\s'\"]+")
_SECRET_KEY = re.compile(r"://[^?]*\?.*?(key|secret|token|sig|pass|cred|sas|auth)[^=&]*=", re.IGNORECASE | re.DOTALL)
"""A key of a query whose value opens a store; others, such as region, are none of it."""
_LONGEST = 1024
"""Characters of an address, as S3 bounds a key."""
_LONGEST_NAME = 200
"""Bytes of its last part, which is also the name of a file or a folder of this machine."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a file or a folder lies. It holds no password and no query, so that it may be shown and recorded."""

    text: str

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.text.rpartition("/")[2]

    def __str__(self) -> str:
        return self.text


def address_of(text: str) -> Address | None:
    """The address that `text` is, None for a path of this machine.

    UsageError for a password or a query, which may be a token, and for an address that names nothing inside a store.
    """
    if not _PROTOCOL.match(text.lstrip()):
        return None
    protocol, _, path = text.partition("://")
    user, has_user, place = path.rpartition("@")
    known = masked(f"{protocol}://{user.partition(':')[0]}:***@{place}" if has_user and ":" in user else text)
    if known != text:
        raise UsageError(
            f"expected an address without password, query and fragment, got {shown(known)}; "
            "give credentials as the store's own configuration or environment has them"
        )
    path = path.rstrip("/")
    is_inside = path.strip("/") and not {".", ".."} & set(path.split("/")) and not set("?#") & set(text)
    is_short = len(text) <= _LONGEST and len(os.fsencode(path.rpartition("/")[2])) <= _LONGEST_NAME
    if "::" in protocol or not is_inside or not is_short or not text.isprintable() or text != text.strip():
        raise UsageError(f"expected an address of a file or folder such as s3://bucket/runs/shop, got {shown(text)}")
    return Address(f"{protocol}://{path}")


def masked(text: str) -> str:
    """`text` with *** in place of passwords, tokens, queries and fragments of addresses in it, as records may hold it."""
    return _QUERY.sub(r"\1\2***", _users_masked(text))


def refuse_secret(key: str, text: str) -> None:
    """ValueError, which says what `key` expects, where the address `text` holds a password or a token."""
    if _SECRET_KEY.search(text) or _users_masked(text) != text:
        raise ValueError(
            f"{key} expects an address without password and token, since runs record it, got {shown(masked(text))}; "
            "give credentials as the store's own configuration or environment has them"
        )


def _users_masked(text: str) -> str:
    return _WEB_USER.sub("***@", _SECRET.sub(r"\1:***@", text))

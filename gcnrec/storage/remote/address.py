"""Addresses of files and folders: `protocol://place`, as fsspec has them, without anything that is secret."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from gcnrec.errors import UsageError, shown

_PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SECRET = re.compile(r"(?<=://)([^/@\s:]*):[^/@\s]*@")
_QUERY = re.compile(r"(://[^?\s'\"]*)\?[^\s'\"]*")


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
    if not _PROTOCOL.match(text):
        return None
    parts = urlsplit(text)
    if parts.password is not None or parts.query or parts.fragment:
        raise UsageError(
            f"expected an address without password, query and fragment, got {shown(masked(text))}; "
            "give credentials as the store's own configuration or environment has them"
        )
    plain = text.rstrip("/")
    path = plain.partition("://")[2]
    if not path.strip("/") or ".." in path.split("/") or not plain.isprintable():
        raise UsageError(f"expected an address of a file or folder such as s3://bucket/runs/shop, got {shown(text)}")
    return Address(plain)


def masked(text: str) -> str:
    """`text` with *** in place of the passwords and queries of addresses in it, as records may hold it."""
    return _QUERY.sub(r"\1?***", _SECRET.sub(r"\1:***@", text))

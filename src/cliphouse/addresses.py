"""Addresses as text: what they name, and how they are shown.

On the web an address may hold who asks (`https://name:password@host`) and a query that is a key to the file. In a store
everything after the bucket is a key as it is listed: `#`, `?` and `%` are letters of it like any other.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(?:[^/?#]*@)?(.*)", re.DOTALL)
#: An address inside a sentence.
_WITHIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>()]+")
WEB = ("http", "https")
#: Schemes whose keys may hold any letter.
_STORES = ("s3", "gs", "az", "abfs", "abfss", "adl")


def is_url(source: str) -> bool:
    """Whether this is an address rather than a path."""
    return _URL.match(source) is not None


def scheme(url: str) -> str:
    """The part before `://`, in small letters; "" for a path."""
    match = _URL.match(url)
    return match[1].lower() if match else ""


def shown(source: str) -> str:
    """An address without what may be a secret: a name and password, and but for keys in stores, a query and a fragment.

    For every message, and for all that is stored.
    """
    if (match := _URL.match(source)) is None:
        return source
    rest = match[2] if scheme(source) in _STORES else re.split(r"[?#]", match[2])[0]
    return f"{match[1]}://{rest}"


def shown_within(text: str) -> str:
    """A sentence with all its addresses as `shown`."""
    return _WITHIN.sub(lambda match: shown(match[0]), text)


def file_name(url: str) -> str:
    """The last part of an address, as a name."""
    name = shown(url).rpartition("/")[2]
    return unquote(name) if scheme(url) in WEB else name


def encoded(url: str) -> str:
    """An address in a store, for who takes addresses apart as those of the web."""
    *bucket, key = f"{url}/".split("/", 3)
    return "/".join([*bucket, quote(key.rstrip("/"))]).rstrip("/")

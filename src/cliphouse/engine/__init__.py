"""The engine seam: ClickHouse in this process or on a server, behind one URL. The only place that knows the driver."""

from cliphouse.engine.answers import Capabilities, Result
from cliphouse.engine.blocks import Block
from cliphouse.engine.client import Engine, connect
from cliphouse.engine.connection import Work
from cliphouse.engine.embedded import machine_memory_bytes
from cliphouse.engine.guest import Answer, Guest
from cliphouse.engine.session import Session, arrow_table
from cliphouse.engine.url import EmbeddedLocation, Location, ServerLocation, parse_url

__all__ = [
    "Answer",
    "Block",
    "Capabilities",
    "EmbeddedLocation",
    "Engine",
    "Guest",
    "Location",
    "Result",
    "ServerLocation",
    "Session",
    "Work",
    "arrow_table",
    "connect",
    "machine_memory_bytes",
    "parse_url",
]

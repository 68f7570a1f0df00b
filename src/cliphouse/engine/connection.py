"""One connection of the driver, and how it is told from others."""

from __future__ import annotations

from dataclasses import dataclass

from clickhouse_connect.driver.client import Client


@dataclass(slots=True, eq=False)
class Connection:
    """A driver's client, and the mark its queries carry so that they can be found and killed.

    `lost` is set from an interrupt until its query has ended: waiting for the connection could take for ever.
    """

    client: Client
    mark: str
    stateful: bool = False
    lost: bool = False

    def close(self) -> None:
        """Close the client, unless that could hang."""
        if not self.lost:
            self.client.close()

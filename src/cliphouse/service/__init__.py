"""The service: REST, clip-retrieval's interface, ClickHouse's HTTP interface and the page, over one engine.

`cliphouse serve` runs it; `app.create_app` makes the ASGI application.
"""

"""Compression on the wire: what HTTP knows, and ClickHouse's own blocks with checksums.

A block is 16 bytes of CityHash128 (of version 1.0.2, which nobody else uses) over the rest: a byte for the method, two
little-endian 32-bit sizes, compressed with these nine bytes and uncompressed, and the data.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable
from typing import Any, Protocol

import lz4.block
import lz4.frame
from clickhouse_cityhash.cityhash import CityHash128

from cliphouse.service.clickhouse_errors import refused

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: What an answer may be compressed with, the most preferred first: lz4 costs least, and this server has few cores.
ENCODINGS = ("lz4", "zstd", "gzip", "deflate")

_NONE, _LZ4, _ZSTD = 0x02, 0x82, 0x90
_HEADER = struct.Struct("<BII")
_SUM_BYTES = 16
_BLOCK_BYTES = 2**20
#: A block that says to hold more is not believed.
_MOST_BYTES = 2**30
#: zlib's windows: gzip's header, and zlib's, which HTTP calls deflate.
_WINDOWS = {"gzip": 31, "deflate": 15}


class Packer(Protocol):
    """Compresses an answer piece by piece."""

    def pack(self, piece: bytes) -> bytes:
        """What may be sent of the answer so far."""

    def end(self) -> bytes:
        """The rest."""


class Plain:
    """No compression."""

    def pack(self, piece: bytes) -> bytes:
        """The piece."""
        return piece

    def end(self) -> bytes:
        """Nothing."""
        return b""


class _Stream:
    def __init__(self, compress: Callable[[bytes], bytes], end: Callable[[], bytes], begin: bytes = b"") -> None:
        self._compress, self._end, self._begin = compress, end, begin

    def pack(self, piece: bytes) -> bytes:
        begin, self._begin = self._begin, b""
        return begin + self._compress(piece)

    def end(self) -> bytes:
        return self._begin + self._end()


class Blocks:
    """ClickHouse's own blocks, in LZ4."""

    def pack(self, piece: bytes) -> bytes:
        """The piece as blocks."""
        return b"".join(_block(piece[start : start + _BLOCK_BYTES]) for start in range(0, len(piece), _BLOCK_BYTES))

    def end(self) -> bytes:
        """Nothing: a block stands for itself."""
        return b""


def packer(encoding: str | None, level: int = 3) -> Packer:
    """What compresses an answer for an encoding of HTTP."""
    if encoding == "zstd":
        zstandard = zstd.ZstdCompressor(level=level)
        return _Stream(zstandard.compress, zstandard.flush)
    if encoding == "lz4":
        frame = lz4.frame.LZ4FrameCompressor()
        return _Stream(frame.compress, frame.flush, frame.begin())
    if encoding in _WINDOWS:
        deflate = zlib.compressobj(min(level, 9), wbits=_WINDOWS[encoding])
        return _Stream(deflate.compress, deflate.flush)
    return Plain()


def chosen(accepted: str) -> str | None:
    """The encoding of an answer to a request with this Accept-Encoding."""
    names = set()
    for part in accepted.lower().split(","):
        name, _, quality = part.partition(";")
        if quality.replace(" ", "") not in ("q=0", "q=0.0"):
            names.add(name.strip())
    return next((name for name in ENCODINGS if name in names), None)


class Unpacker(Protocol):
    """Opens what a request holds piece by piece."""

    def take(self, piece: bytes) -> bytes:
        """What came in a piece, as far as it is whole."""

    def end(self) -> None:
        """Make sure that nothing is missing."""


def _opener(encoding: str) -> Any:
    if encoding == "zstd":
        return zstd.ZstdDecompressor()
    if encoding == "lz4":
        return lz4.frame.LZ4FrameDecompressor()
    return zlib.decompressobj(wbits=_WINDOWS[encoding])


class _Encoded:
    """What HTTP's Content-Encoding wraps: one frame or member, or some one after another."""

    def __init__(self, encoding: str) -> None:
        if encoding not in ENCODINGS:
            known = ", ".join(ENCODINGS)
            raise refused("UNKNOWN_COMPRESSION_METHOD", f"Unknown compression method {encoding!r}; known are {known}")
        self._encoding, self._open = encoding, _opener(encoding)

    def take(self, piece: bytes) -> bytes:
        found = []
        try:
            while piece:
                if self._open.eof:
                    self._open = _opener(self._encoding)
                found.append(self._open.decompress(piece))
                piece = self._open.unused_data if self._open.eof else b""
        except (zlib.error, zstd.ZstdError, RuntimeError) as error:
            raise refused("CANNOT_DECOMPRESS", f"the request is not {self._encoding}: {error}") from error
        return b"".join(found)

    def end(self) -> None:
        if not self._open.eof:
            raise refused("CANNOT_DECOMPRESS", f"the request ends in the middle of its {self._encoding}")


class _Blocked:
    """ClickHouse's own blocks."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def take(self, piece: bytes) -> bytes:
        self._waiting += piece
        return b"".join(iter(lambda: _first(self._waiting), b""))

    def end(self) -> None:
        if self._waiting:
            raise refused("CANNOT_DECOMPRESS", "the request ends in the middle of a compressed block")


def unpackers(encoding: str, *, blocks: bool) -> list[Unpacker]:
    """What opens the body of a request with this Content-Encoding, in this order.

    Raises:
        EngineError: the encoding is not known.
    """
    encoding = encoding.strip().lower()
    outer: list[Unpacker] = [] if encoding in ("", "identity") else [_Encoded(encoding)]
    return [*outer, _Blocked()] if blocks else outer


def _first(waiting: bytearray) -> bytes:
    """The first block, taken off; nothing if it has not come whole. No block is empty."""
    if len(waiting) < _SUM_BYTES + _HEADER.size:
        return b""
    method, packed, plain = _HEADER.unpack_from(waiting, _SUM_BYTES)
    if method not in (_NONE, _LZ4, _ZSTD):
        raise refused("UNKNOWN_COMPRESSION_METHOD", f"Unknown compression method {method:#04x} of a block")
    if not _HEADER.size < packed <= _MOST_BYTES or not 0 < plain <= _MOST_BYTES:
        raise refused("CANNOT_DECOMPRESS", f"a compressed block of {packed} bytes for {plain} is not possible")
    if len(waiting) < _SUM_BYTES + packed:
        return b""
    given, body = bytes(waiting[:_SUM_BYTES]), bytes(waiting[_SUM_BYTES : _SUM_BYTES + packed])
    if given != _sum(body):
        raise refused("CHECKSUM_DOESNT_MATCH", "Checksum doesn't match: corrupted data")
    del waiting[: _SUM_BYTES + packed]
    return _unpack(method, body[_HEADER.size :], plain)


def _unpack(method: int, data: bytes, size: int) -> bytes:
    try:
        if method == _LZ4:
            found: bytes = lz4.block.decompress(data, uncompressed_size=size)
        elif method == _ZSTD:
            found = zstd.ZstdDecompressor().decompress(data, max_length=size)
        else:
            found = data
    except (lz4.block.LZ4BlockError, zstd.ZstdError) as error:
        raise refused("CANNOT_DECOMPRESS", f"Cannot decompress a block: {error}") from error
    if len(found) != size:
        raise refused("CANNOT_DECOMPRESS", f"a compressed block holds {len(found)} bytes, not {size}")
    return found


def _block(data: bytes) -> bytes:
    packed: bytes = lz4.block.compress(data, store_size=False)
    body = _HEADER.pack(_LZ4, len(packed) + _HEADER.size, len(data)) + packed
    return _sum(body) + body


def _sum(body: bytes) -> bytes:
    high, low = divmod(CityHash128(body), 2**64)
    return struct.pack("<QQ", high, low)

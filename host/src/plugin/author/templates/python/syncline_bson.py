"""Reads BSON as the host sends it. Documents stand end to end; each begins with its own length."""

import struct

_FIXED = {0x01: 8, 0x06: 0, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16, 0x7F: 0, 0xFF: 0}


class Malformed(Exception):
    """Bytes that are no document."""


def documents(data):
    """The documents of a batch, as views of its bytes."""
    data = memoryview(data)
    at = 0
    while at < len(data):
        if len(data) - at < 5:
            raise Malformed("a document is cut short")
        (length,) = struct.unpack_from("<i", data, at)
        if not 5 <= length <= len(data) - at:
            raise Malformed("a document is cut short")
        yield data[at : at + length]
        at += length


def fields(document):
    """Name, type and bytes of every top-level field."""
    whole = bytes(document)
    at, end = 4, len(whole) - 1
    while at < end:
        kind = whole[at]
        stop = whole.find(b"\0", at + 1)
        if stop < 0:
            raise Malformed("a name has no end")
        start = stop + 1
        length = _size(kind, whole, start)
        if length < 0 or start + length > end:
            raise Malformed("a value is cut short")
        # Servers keep what drivers send them: not every text is UTF-8.
        yield whole[at + 1 : stop].decode(errors="replace"), kind, whole[start : start + length]
        at = start + length


def _size(kind, data, at):
    if kind in _FIXED:
        return _FIXED[kind]
    if kind == 0x0B:
        second = data.find(b"\0", at) + 1
        return data.find(b"\0", second) + 1 - at
    (length,) = struct.unpack_from("<i", data, at)
    if kind in (0x02, 0x0D, 0x0E):
        return 4 + length
    if kind in (0x03, 0x04, 0x0F):
        return length
    if kind == 0x05:
        return 5 + length
    if kind == 0x0C:
        return 16 + length
    raise Malformed(f"type {kind} is unknown")


def get(document, name, default=None):
    """The value of a top-level field: text, numbers, booleans and None as themselves, anything else
    as a pair of its type and its bytes. `default` when there is no such field."""
    for key, kind, data in fields(document):
        if key == name:
            return _value(kind, data)
    return default


def _value(kind, data):
    if kind == 0x01:
        return struct.unpack("<d", data)[0]
    if kind == 0x02:
        return data[4:-1].decode(errors="replace")
    if kind == 0x08:
        return data != b"\0"
    if kind == 0x0A:
        return None
    if kind in (0x10, 0x12):
        return int.from_bytes(data, "little", signed=True)
    return (kind, data)

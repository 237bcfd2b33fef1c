"""Hashes of a stream's packets in a form that survives moving to another container."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import TYPE_CHECKING

from xxhash import xxh3_128, xxh3_128_hexdigest

if TYPE_CHECKING:
    from typing_extensions import Buffer

_LENGTH_AND_FIRST = Struct(">IB").unpack_from


def digest(*parts: str) -> str:
    """One hash of several strings that hold no vertical bar."""
    return xxh3_128_hexdigest("|".join(parts).encode())


class Payload:
    """The payload as it is, wherever packets begin and end: right for most codecs."""

    def __init__(self) -> None:
        self._hash = xxh3_128()
        if type(self) is Payload:
            # One call less for every packet.
            self.update = self._hash.update  # type: ignore[method-assign,assignment]

    def update(self, packet: Buffer) -> None:
        """Add one packet, which is not copied."""
        self._hash.update(packet)

    def hexdigest(self) -> str:
        """32 hexadecimal digits."""
        return self._hash.hexdigest()


class AacPayload(Payload):
    """AAC without the ADTS headers that MPEG-TS needs; a packet may hold several frames."""

    def update(self, packet: Buffer) -> None:
        packet = memoryview(packet)
        if packet[0] != 0xFF:
            self._hash.update(packet)
            return
        at = 0
        # No raw AAC frame begins with twelve ones: its first three would say "end of frame".
        while len(packet) - at >= 7 and packet[at] == 0xFF and packet[at + 1] & 0xF6 == 0xF0:
            header = 7 if packet[at + 1] & 1 else 9
            size = (packet[at + 3] & 3) << 11 | packet[at + 4] << 3 | packet[at + 5] >> 5
            if size < header:
                break
            self._hash.update(packet[at + header : at + size])
            at += size
        self._hash.update(packet[at:])


class NalPayload(Payload):
    """H.264 or HEVC: the coded slices, and the set of parameter sets.

    MP4 puts a length before each NAL unit and the parameter sets into a header of the track,
    MPEG-TS puts start codes before each and repeats the parameter sets among the slices. Units
    that carry no picture (delimiters, SEI, filler) come and go with remuxing.
    """

    def __init__(self, codec: str, extradata: bytes) -> None:
        super().__init__()
        self._hevc = codec == "hevc"
        # By their first byte.
        self._slices = frozenset(
            first
            for first in range(256)
            if ((first >> 1 & 0x3F) < 32 if self._hevc else 1 <= first & 0x1F <= 5)
        )
        self._parameters: set[bytes] = set()
        self._length_size = _length_size(codec, extradata)
        if self._length_size:
            units = _hvcc(extradata) if self._hevc else _avcc(extradata)
        else:
            units = (extradata[start:end] for start, end in _start_codes(extradata))
        for unit in units:
            if unit and self._is_parameters(unit[0]):
                self._add_parameters(unit)

    def update(self, packet: Buffer) -> None:
        packet = memoryview(packet)
        size = self._length_size
        if size == 4:
            # Most packets are in their canonical form already: slices, without zeros at their ends.
            at, total = 0, len(packet)
            while at + 4 < total:
                length, first = _LENGTH_AND_FIRST(packet, at)
                at += 4 + length
                if at > total or first not in self._slices or not packet[at - 1]:
                    break
            else:
                if at == total:
                    self._hash.update(packet)
                    return
        for start, end in _lengths(packet, size) if size else _start_codes(bytes(packet)):
            first = packet[start]
            if first in self._slices:
                stop = end
                while packet[stop - 1] == 0 and stop > start + 1:
                    stop -= 1
                if size == 4 and stop == end:
                    self._hash.update(packet[start - 4 : end])
                else:
                    self._hash.update((stop - start).to_bytes(4, "big"))
                    self._hash.update(packet[start:stop])
            elif self._is_parameters(first):
                self._add_parameters(bytes(packet[start:end]))

    def hexdigest(self) -> str:
        parameters = (xxh3_128_hexdigest(unit) for unit in sorted(self._parameters))
        return digest(self._hash.hexdigest(), *parameters)

    def _is_parameters(self, first: int) -> bool:
        return 32 <= (first >> 1 & 0x3F) <= 34 if self._hevc else first & 0x1F in (7, 8)

    def _add_parameters(self, unit: bytes) -> None:
        # FFmpeg copies a start code's zero into the track's header when it remuxes from MPEG-TS.
        self._parameters.add(unit.rstrip(b"\0"))


def unit_types(codec: str, extradata: bytes, packet: memoryview) -> set[int]:
    """The types of the NAL units of a packet of H.264 or HEVC."""
    size = _length_size(codec, extradata)
    units = _lengths(packet, size) if size else _start_codes(bytes(packet))
    if codec == "hevc":
        return {packet[start] >> 1 & 0x3F for start, _ in units}
    return {packet[start] & 0x1F for start, _ in units}


def _length_size(codec: str, extradata: bytes) -> int:
    """Bytes of the length before each unit, 0 if there are start codes."""
    if not extradata or extradata.startswith((b"\0\0\1", b"\0\0\0\1")):
        return 0
    return (extradata[21 if codec == "hevc" else 4] & 3) + 1


def _lengths(packet: memoryview, size: int) -> Iterator[tuple[int, int]]:
    """Start and end of each unit that has its length before it."""
    at, total = 0, len(packet)
    while at + size < total:
        start = at + size
        at = min(start + int.from_bytes(packet[at:start], "big"), total)
        if at > start:
            yield start, at


def _start_codes(packet: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of each unit that has a start code before it."""
    start = packet.find(b"\0\0\1")
    while start >= 0:
        start += 3
        following = packet.find(b"\0\0\1", start)
        end = following if following >= 0 else len(packet)
        if end > start:
            yield start, end
        start = following


def _avcc(header: bytes) -> Iterator[bytes]:
    """The parameter sets in an MP4 track's header for H.264 (ISO/IEC 14496-15)."""
    at = 5
    for mask in (0x1F, 0xFF):
        count = header[at] & mask if at < len(header) else 0
        at += 1
        for _ in range(count):
            start = at + 2
            at = start + int.from_bytes(header[at:start], "big")
            yield header[start:at]


def _hvcc(header: bytes) -> Iterator[bytes]:
    """The parameter sets in an MP4 track's header for HEVC (ISO/IEC 14496-15)."""
    at = 23
    for _ in range(header[22]):
        count = int.from_bytes(header[at + 1 : at + 3], "big")
        at += 3
        for _ in range(count):
            start = at + 2
            at = start + int.from_bytes(header[at:start], "big")
            yield header[start:at]

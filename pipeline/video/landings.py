"""Where decoding may begin anew: key frames with a checksum of their picture, so that a seek to one can be proved.

A seek is believed only where the picture that it lands on is, bit for bit, the one that decoding from the start gave.
That proves the picture itself. What comes after it is right because of the kind of key frame: only those count here
behind which, in the order of showing, nothing leans on anything before them. That holds of every key frame of the
codecs in `CLOSED`, of H.264's IDR pictures (not of the recovery points of open groups of pictures and of intra refresh)
and of HEVC's IRAP pictures, whose leading pictures are shown before them and so belong to the landing before.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from zlib import crc32

import av
import numpy as np

# Codecs whose key frames take nothing over from before: measured, all of them, by tests/video/test_same_frames.py.
CLOSED = frozenset(
    {"vp8", "vp9", "av1", "mpeg4", "mpeg1video", "mpeg2video", "mjpeg", "flv1", "wmv1", "wmv2", "msmpeg4v3"}
)
# Landings lie this many frames apart at least: of a video that is all key frames, not all are kept.
APART = 12
_START_CODE = re.compile(rb"\x00\x00\x01(?=[\x00-\xff])", re.DOTALL)


class Landing(NamedTuple):
    """A key frame that decoding may begin at; the first frame of a video too, whatever it is."""

    frame: int  # its number among those shown
    tick: int  # of the stream's time base
    crc: int  # of its decoded planes


def dumped(landings: Sequence[Landing]) -> str:
    """Landings as the text that a manifest holds.

    >>> dumped([Landing(0, 0, 255), Landing(48, -3072, 16)])
    '0:0:ff 48:-3072:10'
    """
    return " ".join(f"{frame}:{tick}:{crc:x}" for frame, tick, crc in landings)


def loaded(text: str | None) -> list[Landing]:
    """The inverse of `dumped`; nothing of the null of an earlier manifest.

    >>> loaded("0:0:ff 48:-3072:10")[1]
    Landing(frame=48, tick=-3072, crc=16)
    """
    parts = (entry.split(":") for entry in (text or "").split())
    return [Landing(int(frame), int(tick), int(crc, 16)) for frame, tick, crc in parts]


def fingerprint(frame: av.VideoFrame) -> int:
    """crc32 of a frame's planes as the decoder gave them, without the padding of their lines: 0.04 ms at 240p."""
    crc = 0
    for number, plane in enumerate(frame.planes):
        parts = [part for part in frame.format.components if part.plane == number]
        used = min(plane.line_size, plane.width * sum(-(-part.bits // 8) for part in parts))
        lines = np.frombuffer(plane, np.uint8)[: plane.height * plane.line_size].reshape(plane.height, plane.line_size)
        crc = crc32(np.ascontiguousarray(lines[:, :used]), crc)
    return crc


def is_closed(codec: str, packet: av.Packet, header: bytes | None) -> bool:
    """Whether nothing that is shown after a key packet's picture leans on anything before it.

    Args:
        codec: canonical name.
        packet: of a key frame, as the container says.
        header: the stream's extradata, which says how units are told apart in H.264 and HEVC.
    """
    if codec == "h264":
        return any(unit[0] & 31 == 5 for unit in _units(bytes(packet), header, 4))
    if codec == "hevc":
        kinds = (unit[0] >> 1 & 63 for unit in _units(bytes(packet), header, 21))
        return any(16 <= kind <= 23 for kind in kinds)
    return codec in CLOSED


def _units(packet: bytes, header: bytes | None, size_at: int) -> Iterator[bytes]:
    """The first bytes of each unit (NAL) of a packet, behind lengths or behind start codes."""
    if header and header[0] == 1 and len(header) > size_at:
        size, place = (header[size_at] & 3) + 1, 0
        while place + size < len(packet):
            length = int.from_bytes(packet[place : place + size])
            yield packet[place + size : place + size + 1]
            place += size + length
    else:
        for found in _START_CODE.finditer(packet):
            yield packet[found.end() : found.end() + 1]

"""Pictures are one-frame videos: upright RGB from whatever folders hold, a true reason for every other file."""

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.video import VideoError, iterate_frames, probe, read_frames, segment_centres
from tests.video.conftest import picture

COLOURS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
SMOOTH = picture(5, 40, 128)[:, :60]
ORIENTATION = 0x0112


def saved(path, pixels=COLOURS, mode=None, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def shown(path):
    """The frame of a picture file; read_frames and probe agree on its size."""
    facts, frames = probe(path), read_frames(path, [0.0])
    assert frames.shape == (1, facts.height, facts.width, 3) and frames.dtype == np.uint8
    return frames[0]


# --- what a picture is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.png", "png", {}),
        ("a.bmp", "bmp", {}),
        ("a.tif", "tiff", {}),
        ("a.tiff", "tiff", {"compression": "tiff_lzw"}),
        ("a.webp", "webp", {"lossless": True}),
        ("named_after_nothing", "png", {"format": "png"}),
        ("a_png.jpg", "png", {"format": "png"}),
    ],
)
def test_lossless_formats_come_back_exactly_and_the_content_names_the_format(tmp_path, name, codec, options):
    path = saved(tmp_path / name, **options)
    facts = probe(path)
    assert (facts.codec, facts.frames, facts.duration, facts.fps) == (codec, 1, 0.0, 0.0)
    assert (facts.width, facts.height, facts.rotation, facts.edit_list, facts.decord_exact) == (60, 40, 0, False, False)
    assert facts.still
    np.testing.assert_array_equal(shown(path), COLOURS)


@pytest.mark.parametrize(("name", "options"), [("a.jpg", {"quality": 95}), ("a.webp", {"quality": 95}), ("a.gif", {})])
def test_lossy_formats_come_back_nearly(tmp_path, name, options):
    path = saved(tmp_path / name, SMOOTH, **options)
    assert np.abs(shown(path).astype(int) - SMOOTH).mean() < 6
    assert probe(path).codec == {"a.jpg": "jpeg", "a.webp": "webp", "a.gif": "gif"}[name]


def test_a_video_is_not_mistaken_for_a_picture(made):
    assert not probe(made / "one.mp4").still and not probe(made / "vp9.webm").still


@pytest.mark.parametrize("decoder", ["auto", "decord"])
def test_a_picture_is_the_same_at_every_time(tmp_path, decoder):
    path = saved(tmp_path / "a.png")
    for times in ([0.0], segment_centres(4, 0.0), [3.0, -1.0]):
        frames = read_frames(path, times, decoder)
        np.testing.assert_array_equal(frames, np.stack([COLOURS] * len(times)))
        assert frames.flags.c_contiguous and frames.flags.writeable
    assert [len(piece) for piece in iterate_frames(path, [0.0] * 5, decoder, piece=2)] == [2, 2, 1]


def test_a_picture_replaced_by_one_of_another_size_is_noticed(tmp_path):
    facts = probe(saved(tmp_path / "a.png"))
    saved(tmp_path / "a.png", COLOURS[:20])
    with pytest.raises(VideoError, match="got a picture of 60 x 20, but its facts say 1 frames of 60 x 40"):
        read_frames(tmp_path / "a.png", [0.0], "decord", facts)


# --- colours ----------------------------------------------------------------------------------------------------------


def test_grey_becomes_three_equal_colours(tmp_path):
    grey = COLOURS[..., 0]
    np.testing.assert_array_equal(shown(saved(tmp_path / "a.png", grey)), np.stack([grey] * 3, axis=-1))
    mask = grey > 127
    np.testing.assert_array_equal(shown(saved(tmp_path / "b.png", mask))[..., 1], mask * np.uint8(255))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_keep_their_upper_eight(tmp_path, name):
    deep = np.random.default_rng(1).integers(0, 1 << 16, (40, 60)).astype(np.uint16)
    np.testing.assert_array_equal(shown(saved(tmp_path / name, deep))[..., 0], deep >> 8)


def test_sixteen_bit_colours_keep_their_upper_eight(tmp_path):
    cv2 = pytest.importorskip("cv2")
    deep = np.random.default_rng(1).integers(0, 1 << 16, (40, 60, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), deep[..., ::-1])
    np.testing.assert_array_equal(shown(tmp_path / "a.png"), deep >> 8)


@pytest.mark.parametrize("name", ["a.png", "a.gif"])
def test_a_palette_is_looked_up(tmp_path, name):
    path = saved(tmp_path / name, Image.fromarray(SMOOTH).quantize(32))
    with Image.open(path) as image:
        assert image.mode == "P"
    np.testing.assert_array_equal(shown(path), np.asarray(Image.fromarray(SMOOTH).quantize(32).convert("RGB")))


def test_cmyk_becomes_rgb(tmp_path):
    path = saved(tmp_path / "a.jpg", SMOOTH, "CMYK", quality=100)
    assert np.abs(shown(path).astype(int) - SMOOTH).mean() < 6


def test_transparency_is_dropped_and_the_colours_beneath_stay(tmp_path):
    alpha = np.dstack([COLOURS, np.tile(np.arange(60, dtype=np.uint8) * 4, (40, 1))])
    np.testing.assert_array_equal(shown(saved(tmp_path / "a.png", alpha)), COLOURS)
    grey = np.dstack([COLOURS[..., 0], alpha[..., 3]])
    np.testing.assert_array_equal(shown(saved(tmp_path / "b.png", grey))[..., 2], COLOURS[..., 0])


# --- geometry ---------------------------------------------------------------------------------------------------------

UPRIGHT = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: np.rot90(pixels),
}


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_each_orientation_of_a_camera_comes_upright(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = saved(tmp_path / name, exif=exif, **({"lossless": True} if name == "a.webp" else {}))
    np.testing.assert_array_equal(shown(path), UPRIGHT[orientation](COLOURS))


def test_a_phones_jpeg_comes_upright(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = saved(tmp_path / "a.jpg", SMOOTH, exif=exif, quality=95)
    assert np.abs(shown(path).astype(int) - np.rot90(SMOOTH, -1)).mean() < 6
    assert (probe(path).width, probe(path).height, probe(path).rotation) == (40, 60, 0)


def test_one_pixel_is_a_picture(tmp_path):
    path = saved(tmp_path / "a.png", COLOURS[:1, :1])
    np.testing.assert_array_equal(shown(path), COLOURS[:1, :1])


# --- pictures that move -----------------------------------------------------------------------------------------------

LEVELS = (200, 100, 50)


def moving(path, levels=LEVELS, **options):
    grey = [Image.fromarray(np.full((40, 60, 3), level, np.uint8)) for level in levels]
    return saved(path, grey[0], save_all=True, append_images=grey[1:], **options)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif", "a.mpo"])
def test_among_pictures_a_moving_one_is_its_first_frame(tmp_path, name):
    facts = probe(path := moving(tmp_path / name), still=True)
    assert facts.frames == 1 and facts.still
    assert np.abs(read_frames(path, [0.0], facts=facts).astype(int) - 200).max() <= 2


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
@pytest.mark.parametrize(("name", "codec"), [("a.gif", "gif"), ("a.png", "apng"), ("a.webm", "gif")])
def test_an_animated_gif_or_png_is_a_video_of_all_its_frames_at_their_times(tmp_path, name, codec, decoder):
    path = moving(tmp_path / name, format="GIF" if codec == "gif" else "PNG", duration=[100, 400, 200])
    facts = probe(path)
    assert (facts.frames, facts.duration, facts.codec, facts.still) == (3, pytest.approx(0.7), codec, False)
    frames = read_frames(path, [0.05, 0.15, 0.45, 0.55, 0.69], decoder, facts)
    assert np.abs(frames[:, 0, 0, 0].astype(int) - [200, 100, 100, 50, 50]).max() <= 2


def test_a_phone_s_picture_of_several_is_still(tmp_path):
    assert probe(moving(tmp_path / "a.mpo")).still


@pytest.mark.parametrize(("name", "why"), [("a.webp", "animated WebP"), ("a.tif", "3 pages, which have no times")])
def test_what_moves_and_cannot_be_decoded_with_its_times_is_unsupported(tmp_path, name, why):
    with pytest.raises(VideoError, match=f"unsupported: .*{why}.*; convert it to a video"):
        probe(moving(tmp_path / name))


@pytest.mark.parametrize("name", ["a.mjpeg", "a.jpg", "a.mp4"])
def test_jpegs_one_after_the_other_are_no_still_picture(tmp_path, name):
    content = saved(tmp_path / "one.jpg", SMOOTH, quality=95).read_bytes()
    (tmp_path / name).write_bytes(content * 3)
    with pytest.raises(VideoError, match=r"unsupported: several pictures \(JPEG\).* have no times"):
        probe(tmp_path / name)
    assert probe(tmp_path / name, still=True).still


def test_a_thumbnail_or_other_bytes_beside_a_jpeg_do_not_make_it_move(tmp_path):
    thumbnails = 2 * saved(tmp_path / "small.jpg", SMOOTH[:8, :8]).read_bytes()
    segment = b"\xff\xe5" + (len(thumbnails) + 2).to_bytes(2) + thumbnails
    for name, options in (("a.jpg", {}), ("b.jpg", {"progressive": True})):
        path = saved(tmp_path / name, SMOOTH, **options)
        content = path.read_bytes()
        path.write_bytes(
            content[:2] + segment + content[2:] + bytes(40) + b"\0\0\0\x18ftypmp42, as phones put behind it"
        )
        assert probe(path).still


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("name", ["a.gif", "a.png"])
def test_an_animation_that_was_cut_is_no_shorter_video(tmp_path, name, share):
    content = moving(tmp_path / name, levels=range(0, 250, 10)).read_bytes()
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    assert reason(tmp_path / name) in ("short", "decode_error")


# --- pictures of other formats ----------------------------------------------------------------------------------------


def box(kind, *parts):
    return (8 + sum(map(len, parts))).to_bytes(4) + kind + b"".join(parts)


def full(kind, *parts, version=0, flags=0):
    return box(kind, bytes([version]) + flags.to_bytes(3), *parts)


def write_tiled_heic(path):
    """Two tiles of 64 x 64, grey and white, side by side: a grid of ISO/IEC 23008-12."""
    tiles = []
    for shade in (40, 200):
        with av.open(str(path), "w", format="mp4") as container:
            stream = container.add_stream("libx265", rate=1, options={"x265-params": "log-level=none"})
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), shade, np.uint8))))
            container.mux(stream.encode())
        content = path.read_bytes()
        config, coded = (content.index(kind) - 4 for kind in (b"hvcC", b"mdat"))
        header = content[config : config + int.from_bytes(content[config : config + 4])]
        tiles.append(content[coded + 8 : coded + int.from_bytes(content[coded : coded + 4])])
    items = [*tiles, b"\0\0\0\1\0\x80\0\x40"]  # one row of two, 128 x 64
    kinds = [b"hvc1", b"hvc1", b"grid"]
    sizes = [full(b"ispe", width.to_bytes(4), (64).to_bytes(4)) for width in (64, 128)]
    properties = box(b"ipco", header, *sizes) + full(
        b"ipma", b"\0\0\0\3", b"\0\1\2\x81\2", b"\0\2\2\x81\2", b"\0\3\1\3"
    )
    infos = [full(b"infe", bytes([0, n, 0, 0]), kind, b"\0", version=2) for n, kind in enumerate(kinds, 1)]
    front = [
        full(b"hdlr", bytes(4), b"pict", bytes(13)),
        full(b"pitm", b"\0\3"),
        full(b"iinf", b"\0\3", *infos),
        full(b"iref", box(b"dimg", b"\0\3\0\2\0\1\0\2")),
        box(b"iprp", properties),
    ]
    brand = box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    place, located = len(brand) + len(full(b"meta", *front)) + 16 + 3 * 14 + 8, b""
    for number, item in enumerate(items, 1):
        located += bytes([0, number, 0, 0, 0, 1]) + place.to_bytes(4) + len(item).to_bytes(4)
        place += len(item)
    meta = full(b"meta", *front, full(b"iloc", b"\x44\0\0\3", located))
    path.write_bytes(brand + meta + box(b"mdat", *items))
    return path


def test_a_picture_in_tiles_is_unsupported_and_never_one_of_its_tiles(tmp_path):
    path = write_tiled_heic(tmp_path / "phone.heic")
    with av.open(str(path)) as container:
        assert [(stream.width, stream.height) for stream in container.streams.video] == [(64, 64)] * 2
        assert len(list(container.decode(video=0))) == 1
    with pytest.raises(VideoError, match=r"unsupported: its picture lies in tiles.*convert it to JPEG or PNG"):
        probe(path)


@pytest.mark.parametrize("options", [{}, {"still": True}], ids=["among videos", "among pictures"])
@pytest.mark.parametrize(
    ("name", "form", "held"),
    [
        ("a.pgm", "PPM", "PPM"), ("a.tga", "TGA", "Targa"), ("a.jp2", "JPEG2000", "JPEG 2000"), ("a.ico", "ICO", "PNG"),
        ("ppm.jpg", "PPM", "PPM"), ("jp2.png", "JPEG2000", "JPEG 2000"),
    ],
)  # fmt: skip
def test_a_readable_picture_of_another_format_is_unsupported_and_not_broken(tmp_path, name, form, held, options):
    path = saved(tmp_path / name, SMOOTH, format=form)
    with pytest.raises(VideoError, match=f"unsupported: it holds .*{held}.*convert it") as caught:
        probe(path, **options)
    assert "fetch" not in str(caught.value)


# --- files that are not whole -----------------------------------------------------------------------------------------


def reason(path):
    with pytest.raises(VideoError) as caught:
        probe(path)
    with pytest.raises(VideoError) as again:
        read_frames(path, [0.0])
    assert (again.value.reason, path.name in str(caught.value)) == (caught.value.reason, True)
    assert str(caught.value).count("\n") == 0
    return caught.value.reason


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize(
    ("name", "wanted", "options"),
    [
        ("a.jpg", "short", {}),
        ("b.jpg", "short", {"progressive": True}),
        ("a.png", "short", {}),
        ("a.bmp", "short", {}),
        ("a.tif", "short", {}),
        ("a.webp", "decode_error", {}),
        ("b.tif", "unreadable", {"compression": "tiff_lzw"}),  # its directory comes last
    ],
)
def test_a_cut_picture_has_a_reason_wherever_it_is_cut(tmp_path, name, wanted, options, share):
    content = saved(tmp_path / name, **options).read_bytes()
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    assert reason(tmp_path / name) == wanted


def test_flipped_bits_in_a_png_are_found_by_its_checksum(tmp_path):
    content = bytearray(saved(tmp_path / "a.png").read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / "a.png").write_bytes(content)
    assert reason(tmp_path / "a.png") == "decode_error"


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("a.jpg", b"", "empty"),
        ("a.jpg", b"<html><body>404</body></html>" * 50, "unreadable"),
        ("a.png", bytes(5000), "unreadable"),
        ("a.jpeg", np.random.default_rng(0).bytes(5000), "unreadable"),
        ("a.webp", b"RIFF\x00\x00\x00\x00WEBP", "unreadable"),
    ],
)
def test_no_bytes_and_no_picture_have_their_own_reasons(tmp_path, name, content, wanted):
    (tmp_path / name).write_bytes(content)
    assert reason(tmp_path / name) == wanted
    assert reason(tmp_path / "absent.jpg") == "missing"


def test_a_broken_picture_under_another_name_is_not_left_to_the_video_decoder(tmp_path):
    content = bytearray(saved(tmp_path / "a.png").read_bytes())
    content[12:16] = b"JUNK"  # its first chunk: Pillow no longer knows it, libavformat still does
    (tmp_path / "frame.dat").write_bytes(content)
    assert reason(tmp_path / "frame.dat") == "unreadable"


def test_a_video_named_as_a_picture_is_unsupported_under_that_name(made, tmp_path):
    (tmp_path / "a.jpg").write_bytes((made / "vp9.webm").read_bytes())
    assert reason(tmp_path / "a.jpg") == "unsupported"


def test_a_decompression_bomb_is_refused_before_it_takes_memory(tmp_path):
    header = bytearray(saved(tmp_path / "a.bmp").read_bytes())
    header[18:26] = (40_000).to_bytes(4, "little") * 2
    (tmp_path / "a.bmp").write_bytes(header)
    with pytest.raises(VideoError, match=r"too large to be a picture.*1600000000 pixels"):
        probe(tmp_path / "a.bmp")
    assert reason(tmp_path / "a.bmp") == "unsupported"


def test_pixels_without_a_range_are_refused_with_the_remedy(tmp_path):
    path = saved(tmp_path / "a.tif", np.linspace(-3, 7, 600, dtype=np.float32).reshape(20, 30))
    with pytest.raises(VideoError, match=r"32-bit numbers \(mode F\); save it with 8 or 16 bits a colour"):
        probe(path)

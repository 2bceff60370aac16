"""Folders and archives of images: what is damaged, cut off, doubled, or would lose something is refused."""

import io
import os
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from kdlib.data import archives, readers

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


def png(array, **options):
    content = io.BytesIO()
    Image.fromarray(array).save(content, "PNG", **options)
    return content.getvalue()


def files_of(count=6):
    return [(f"{'cat' if k % 2 else 'dog'}/{k}.png", png(PIXELS[k])) for k in range(count)]


def tar(entries, kind=""):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=f"w:{kind}") as archive:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return content.getvalue()


def read(path):
    return readers.read_image_folder(path, progress=False)


@pytest.fixture
def archive(tmp_path):
    def written(content, name="a.tar"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return written


@pytest.mark.parametrize("kind", ["", "gz", "bz2", "xz"])
def test_an_archive_is_read_to_its_end(archive, kind):
    """Every cut is noticed, at members' borders, too, and in a compressed one every flipped bit."""
    whole = tar(files_of(), kind)
    np.testing.assert_array_equal(read(archive(whole)).images, np.concatenate([PIXELS[1::2], PIXELS[::2]]))
    data_end = sum(512 + 512 * -(-len(data) // 512) for _, data in files_of())  # zeros follow
    for end in range(512, data_end + 1, 512) if not kind else range(40, len(whole), len(whole) // 40):
        with pytest.raises(ValueError, match=r"damaged|no images"):
            read(archive(whole[:end]))
    if kind:
        for place in range(0, len(whole), len(whole) // 60):
            flipped = bytearray(whole)
            flipped[place] ^= 4
            try:
                found = read(archive(bytes(flipped))).images
            except ValueError:
                continue
            # what may change without harm is the header: a time, a name
            np.testing.assert_array_equal(found, np.concatenate([PIXELS[1::2], PIXELS[::2]]))


def test_a_member_that_comes_twice(archive):
    with pytest.raises(ValueError, match="holds cat/1.png twice"):
        read(archive(tar([*files_of(), files_of()[1]])))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as opened, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, data in [*files_of(), files_of()[0]]:
            opened.writestr(name, data)
    with pytest.raises(ValueError, match="holds dog/0.png twice"):
        read(archive(content.getvalue(), "a.zip"))


def test_a_member_too_large_is_refused_before_it_is_read(archive, monkeypatch):
    monkeypatch.setattr(archives, "LARGEST", 1000)
    with pytest.raises(ValueError, match="notes.bin is 0 MB large, which no image"):
        read(archive(tar([("notes.bin", bytes(2000)), *files_of()])))


def gif(frames):
    content = io.BytesIO()
    first, *others = (Image.fromarray(frame) for frame in frames)
    first.save(content, "GIF", save_all=True, append_images=others)
    return content.getvalue()


def clear(alpha):
    return png(np.dstack([PIXELS[0], np.full((8, 8), alpha, np.uint8)]))


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a/0.png", png(np.full((8, 8), 40_000, np.uint16)), "more than eight bits"),
        ("a/0.gif", gif(PIXELS[:2]), "2 frames"),
        ("a/0.png", clear(100), "transparent"),
        ("a/0.png", png(np.zeros((9000, 9000), np.uint8)), "9000 x 9000 pixels"),
        ("a/0.png", png(PIXELS[0])[:60], "cannot be read"),
    ],
    ids=["16 bits", "frames", "alpha", "large", "cut"],
)
def test_an_image_that_would_lose_something(tmp_path, name, content, said):
    (tmp_path / "a").mkdir()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read(tmp_path)


def test_an_image_is_read_as_a_viewer_shows_it(tmp_path):
    """Turned as its EXIF says; an alpha channel that hides nothing goes."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    (tmp_path / "a" / "0.png").write_bytes(png(PIXELS[0], exif=exif))
    (tmp_path / "b" / "0.png").write_bytes(clear(255))
    found = read(tmp_path).images
    np.testing.assert_array_equal(found[0], PIXELS[0][::-1, ::-1])
    np.testing.assert_array_equal(found[1], PIXELS[0])


def laid_out(place, names):
    for k, name in enumerate(names):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(png(PIXELS[k]))
    return place


@pytest.mark.parametrize(
    "names, said",
    [
        (["cat/train/0.png", "dog/train/1.png"], "put train and test above"),
        (["train/cat/0.png", "dev/cat/1.png"], "dev/cat/1.png lies outside"),
    ],
)
def test_folders_that_mean_something_else(tmp_path, names, said):
    with pytest.raises(ValueError, match=said):
        read(laid_out(tmp_path, names))


def test_linked_classes_do_not_vanish(tmp_path):
    real = laid_out(tmp_path / "elsewhere", ["cat/0.png", "cat/1.png"])
    shown = laid_out(tmp_path / "shown", ["dog/0.png"])
    (shown / "cat").symlink_to(real / "cat")
    with pytest.raises(ValueError, match="is a link to a folder"):
        read(shown)
    (shown / "cat").unlink()
    (shown / "cat").mkdir()
    (shown / "cat" / "0.png").symlink_to(real / "cat" / "0.png")  # a linked image is one
    assert read(shown).classes == ("cat", "dog")


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="no folder and no file"):
        read(tmp_path / "pipe")

"""Images: every official format on small files written in it, damage, escape, splits, and a real download."""

import gzip
import hashlib
import http.server
import io
import struct
import tarfile
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from kdlib import data
from kdlib.data import readers, sources


def idx_bytes(array):
    return b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def image_bytes(array, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


def tar_bytes(files, mode="w:gz"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_bytes(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def cifar_files(fine):
    """A tiny release in the official layout, and the images and labels in it."""
    batches = ["train", "test"] if fine else [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    folder = "cifar-100-binary" if fine else "cifar-10-batches-bin"
    rng, files, images, labels = np.random.default_rng(0), {}, [], []
    for name in batches:
        x = rng.integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)  # n, colour, row, column
        y = rng.integers(0, 10, 3, dtype=np.uint8)
        records = [
            (bytes([7]) if fine else b"") + bytes([label]) + image.tobytes() for image, label in zip(x, y, strict=True)
        ]
        files[f"{folder}/{name}.bin"] = b"".join(records)
        images.append(x.transpose(0, 2, 3, 1))
        labels.append(y)
    names = "fine_label_names.txt" if fine else "batches.meta.txt"
    files[f"{folder}/{names}"] = "\n".join(f"class{i}" for i in range(10)).encode() + b"\n\n"
    return files, np.concatenate(images), np.concatenate(labels)


# --- Fashion-MNIST, embedded -------------------------------------------------------------------------------------


def test_fashion_mnist_is_embedded_whole():
    images = data.load("fashion-mnist", dtype=np.float32)
    assert images.train.images.shape == (60000, 28, 28, 1) and images.test.images.shape == (10000, 28, 28, 1)
    assert images.classes[1] == "trouser" and images.train.images.max() == 1 and images.train.images.min() == 0
    np.testing.assert_array_equal(np.bincount(images.train.labels), 6000)
    np.testing.assert_array_equal(np.bincount(images.test.labels), 1000)


def test_splits_are_disjoint_nested_and_reproducible():
    load = lambda train, seed=0: data.load(
        "fashion-mnist", classes=("trouser", "bag"), seed=seed,
        sizes={"train": train, "transfer": 50, "validation": 30, "test": 40},
    )  # fmt: skip
    small, large, other = load(100), load(200), load(100, seed=1)
    rows = [set(split.index) for split in large.splits.values()]
    assert sum(map(len, rows)) == len(set().union(*rows)) == 320
    np.testing.assert_array_equal(small.train.index, large.train.index[:100])
    for name in ("transfer", "validation", "test"):
        np.testing.assert_array_equal(small.splits[name].index, large.splits[name].index)
    assert set(small.train.index) != set(other.train.index)
    assert all(large.test.index >= 60000) and all(large.train.index < 60000)
    assert set(np.unique(small.train.signs)) == {-1.0, 1.0}
    np.testing.assert_array_equal(small.train.signs > 0, small.train.labels == 1)


def test_normalisations():
    sizes = {"train": 200, "test": 100}
    unit = data.load("fashion-mnist", sizes=sizes, normalisation="unit")
    np.testing.assert_allclose((unit.test.images**2).mean(axis=(1, 2, 3)), 1)
    standard = data.load("fashion-mnist", sizes=sizes, normalisation="standard")
    np.testing.assert_allclose([standard.train.images.mean(), standard.train.images.std()], [0, 1], atol=1e-12)
    assert abs(standard.test.images.mean()) > 1e-6  # fitted on the training split alone


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(name="fashion-mnits"), "choose one of"),
        (dict(name="fashion-mnist", classes=("trouser", "handbag")), "no class 'handbag'"),
        (dict(name="fashion-mnist", classes=(1, 1)), "different"),
        (dict(name="fashion-mnist", sizes={"training": 5}), "unknown split"),
        (dict(name="fashion-mnist", sizes={"train": 60001}), "only 60000"),
        (dict(name="fashion-mnist", sizes={"train": 60000, "transfer": 1}), "left"),
        (dict(name="fashion-mnist", sizes={"train": None, "transfer": None}), "only one"),
        (dict(name="fashion-mnist", sizes={"train": 2.5}), "number of images"),
        (dict(name="fashion-mnist", normalisation="whiten"), "normalisation"),
        (dict(name="fashion-mnist", sizes={"test": 5}, normalisation="standard"), "training split"),
        (dict(name="fashion-mnist", sizes={"train": 0, "test": 5}, normalisation="standard"), "training split"),
        (dict(name="fashion-mnist", sizes={"train": "ten"}), "number of images"),
        (dict(name="fashion-mnist", classes=(1.0, 2.5)), "no class 1.0"),
        (dict(name="fashion-mnist", classes=(True, False)), "no class True"),
        (dict(name="fashion-mnist", image_size=(8, 8)), "own size"),
    ],
)
def test_bad_choices_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.load(**arguments)


def test_a_split_that_was_not_loaded_says_so():
    images = data.load("fashion-mnist", sizes={"test": 3})
    with pytest.raises(AttributeError, match="no 'train' split was loaded"):
        _ = images.train


# --- Formats -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [True, False])
def test_idx(tmp_path, compress, rng):
    array = rng.integers(0, 256, (4, 5, 6), dtype=np.uint8)
    content = idx_bytes(array)
    (tmp_path / "x").write_bytes(gzip.compress(content) if compress else content)
    np.testing.assert_array_equal(readers.read_idx(tmp_path / "x"), array)


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-1], lambda c: b"\x01" + c[1:], lambda c: c[:6], lambda c: gzip.compress(c)[:-9]]
)
def test_damaged_idx_is_refused(tmp_path, damage):
    (tmp_path / "x").write_bytes(damage(idx_bytes(np.zeros((3, 2), np.uint8))))
    with pytest.raises(ValueError, match="damaged|not an IDX"):
        readers.read_idx(tmp_path / "x")


@pytest.mark.parametrize("fine", [False, True])
def test_cifar(tmp_path, fine):
    files, images, labels = cifar_files(fine)
    (tmp_path / "c.tar.gz").write_bytes(tar_bytes(files))
    raw = readers.read_cifar(tmp_path / "c.tar.gz", fine_labels=fine)
    test_first = fine  # members are read in the order of their names
    order = np.r_[3:6, 0:3] if test_first else np.arange(len(labels))
    np.testing.assert_array_equal(raw.images, images[order])
    np.testing.assert_array_equal(raw.labels, labels[order])
    assert raw.classes[3] == "class3" and raw.is_test.sum() == 3


def test_damaged_cifar_is_refused(tmp_path):
    files, _, _ = cifar_files(False)
    path = tmp_path / "c.tar.gz"
    name = "cifar-10-batches-bin/data_batch_2.bin"
    path.write_bytes(tar_bytes({**files, name: files[name][:-1]}))
    with pytest.raises(ValueError, match="data_batch_2.bin is damaged"):
        readers.read_cifar(path, fine_labels=False)
    path.write_bytes(tar_bytes({k: v for k, v in files.items() if k != name}))
    with pytest.raises(ValueError, match="lacks data_batch_2.bin"):
        readers.read_cifar(path, fine_labels=False)
    path.write_bytes(tar_bytes(files)[:-3000])
    with pytest.raises(ValueError, match="damaged"):
        readers.read_cifar(path, fine_labels=False)


def test_tiny_imagenet(tmp_path, rng):
    photo = lambda: image_bytes(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), "JPEG")
    root = "tiny-imagenet-200/"
    grey = image_bytes(rng.integers(0, 256, (64, 64), dtype=np.uint8), "JPEG")  # the real set has grey images too
    files = {
        root + "wnids.txt": b"n01\nn02\n",
        root + "words.txt": b"n01\tgoldfish, Carassius\nn02\tsalamander\nn03\tunused\n",
        root + "train/n01/images/n01_0.JPEG": photo(),
        root + "train/n02/images/n02_0.JPEG": grey,
        root + "train/n02/n02_boxes.txt": b"",
        root + "val/images/val_0.JPEG": photo(),
        root + "val/val_annotations.txt": b"val_0.JPEG\tn02\t0\t0\t1\t1\n",
        root + "test/images/test_0.JPEG": photo(),
    }
    (tmp_path / "t.zip").write_bytes(zip_bytes(files))
    raw = readers.read_tiny_imagenet(tmp_path / "t.zip")
    assert raw.images.shape == (3, 64, 64, 3) and raw.classes == ("n01 goldfish", "n02 salamander")
    assert sorted(zip(raw.is_test.tolist(), raw.labels.tolist(), strict=True)) == [(False, 0), (False, 1), (True, 1)]


PIXELS = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3), dtype=np.uint8)
FOLDER = {"train/cat/0.png": PIXELS[0], "train/dog/0.png": PIXELS[1], "test/dog/1.png": PIXELS[2]}


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz", "tar.xz"])
def test_folders_and_archives(tmp_path, kind):
    files = {name: image_bytes(array) for name, array in FOLDER.items()} | {"README.txt": b"not an image"}
    path = tmp_path / f"images.{kind}"
    if kind == "folder":
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    else:
        path.write_bytes(zip_bytes(files) if kind == "zip" else tar_bytes(files, "w:" + kind[4:]))
    images = data.load(path)
    assert images.classes == ("cat", "dog") and len(images.train) == 2 and len(images.test) == 1
    np.testing.assert_array_equal(images.test.images[0] * 255, FOLDER["test/dog/1.png"])
    assert data.load(path, image_size=(8, 8)).test.images.shape == (1, 8, 8, 3)


def test_folder_without_splits_gives_disjoint_ones(tmp_path):
    for label in "ab":
        for i in range(5):
            (tmp_path / label).mkdir(exist_ok=True)
            pixels = np.full((2, 2), 10 * i + ord(label), np.uint8)
            (tmp_path / label / f"{i}.png").write_bytes(image_bytes(pixels))
    images = data.load(tmp_path, sizes={"train": 6, "test": 4})
    assert set(images.train.index) | set(images.test.index) == set(range(10)) and images.train.images.shape[3] == 1


def test_distinct_leaves_out_duplicates(tmp_path):
    (tmp_path / "a").mkdir()
    for i, value in enumerate((1, 2, 1, 3, 2)):
        (tmp_path / "a" / f"{i}.png").write_bytes(image_bytes(np.full((2, 2), value, np.uint8)))
    images = data.load(tmp_path, distinct=True)
    assert len(images.train) == 3 and images.dropped == 2 and set(images.train.index) == {0, 1, 3}
    assert len(data.load(tmp_path).train) == 5


def test_broken_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no images in class folders"):
        data.load(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(image_bytes(np.zeros((2, 2), np.uint8)))
    (tmp_path / "a" / "1.png").write_bytes(image_bytes(np.zeros((3, 2), np.uint8)))
    with pytest.raises(ValueError, match="image_size"):
        data.load(tmp_path)
    (tmp_path / "a" / "1.png").write_bytes(b"\x89PNG but not really")
    with pytest.raises(ValueError, match="1.png cannot be read"):
        data.load(tmp_path)
    (tmp_path / "x.tar.gz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="no folder, zip or tar"):
        data.load(tmp_path / "x.tar.gz")


@pytest.mark.parametrize("name", ["../evil/0.png", "/etc/evil/0.png", "a/../../evil/0.png", "C:\\evil\\0.png"])
@pytest.mark.parametrize("pack, suffix", [(tar_bytes, "tar.gz"), (zip_bytes, "zip")])
def test_archive_members_cannot_escape(tmp_path, name, pack, suffix):
    path = tmp_path / "x" / f"images.{suffix}"
    path.parent.mkdir()
    path.write_bytes(pack({name: image_bytes(np.zeros((2, 2), np.uint8))}))
    with pytest.raises(ValueError, match="outside its folder"):
        data.load(path)
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == [path.name]


# --- Downloads ---------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A loopback server with a tiny CIFAR-10 release, registered in place of the official one; counts requests."""
    folder = tmp_path / "server"
    folder.mkdir()
    content = tar_bytes(cifar_files(False)[0])
    (folder / "cifar-10-binary.tar.gz").write_bytes(content)
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_):
            requests.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as instance:
        threading.Thread(target=instance.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{instance.server_port}/cifar-10-binary.tar.gz"
        md5 = hashlib.md5(content).hexdigest()
        monkeypatch.setitem(sources.FILES, "cifar10", (sources.RemoteFile("cifar-10-binary.tar.gz", url, md5),))
        monkeypatch.setenv("KDLIB_DATA", str(tmp_path / "cache"))
        yield folder, tmp_path / "cache" / "cifar10" / "cifar-10-binary.tar.gz", requests
        instance.shutdown()


def test_download_once_and_again_when_damaged(server):
    _, cached, requests = server
    assert len(data.load("cifar10", progress=False).train) == 15
    assert len(data.load("cifar10", progress=False).test) == 3
    assert len(requests) == 1
    whole = cached.read_bytes()
    cached.write_bytes(whole[:-100])  # an interrupted copy
    data.load("cifar10", progress=False)
    assert len(requests) == 2 and cached.read_bytes() == whole


def test_a_download_with_other_content_is_refused_and_not_kept(server):
    folder, cached, _ = server
    (folder / cached.name).write_bytes(b"something else")
    with pytest.raises(sources.DataUnavailableError, match="arrived damaged"):
        data.load("cifar10", progress=False)
    assert not cached.exists() and not list(cached.parent.glob("[!.]*"))


def test_jobs_that_start_together_download_once(server):
    """Without the lock each of the eight fetches the file, or finds it half written."""
    requests, barrier = server[2], threading.Barrier(8)
    found = []

    def start():
        barrier.wait()
        found.append(sources.locate("cifar10", progress=False)[0].read_bytes())

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(requests) == 1 and len(found) == 8 and len(set(found)) == 1


def test_offline_says_which_file_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path))
    file = sources.RemoteFile("cifar-100-binary.tar.gz", "http://127.0.0.1:9/nothing", "0" * 32)
    monkeypatch.setitem(sources.FILES, "cifar100", (file,))
    with pytest.raises(FileNotFoundError) as error:
        data.load("cifar100", progress=False)
    assert str(tmp_path / "cifar100" / "cifar-100-binary.tar.gz") in str(error.value) and "0" * 32 in str(error.value)


def test_recompressed_embedded_files_pass_and_damaged_ones_do_not(tmp_path):
    file = sources.FILES["fashion-mnist"][3]
    content = gzip.decompress((sources.EMBEDDED / "fashion-mnist" / file.name).read_bytes())
    for compressed in (gzip.compress(content, 1), gzip.compress(content, 9), content):
        (tmp_path / file.name).write_bytes(compressed)
        assert sources.is_intact(tmp_path / file.name, file)
    (tmp_path / file.name).write_bytes(gzip.compress(content[:-1] + b"\xff"))
    assert not sources.is_intact(tmp_path / file.name, file)
    with pytest.raises(ValueError, match="restore it"):
        sources._locate(file, tmp_path, tmp_path / "cache", progress=False)

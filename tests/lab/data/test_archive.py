"""Finding, downloading and unpacking, against a server on this machine."""

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from earlycrop_lab.data import Archive, DataError, Store
from earlycrop_lab.data.archive import md5
from earlycrop_lab.data.cifar import CIFAR10
from tests.lab.data.forms import write_cifar10


class Server(ThreadingHTTPServer):
    """Sends `content` for any path, claiming `length` bytes."""

    content = b""
    length = 0
    asked: list[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        self.server.asked.append(self.path)
        if not self.server.content:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(self.server.length or len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Answer) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def tar(members: dict[str, bytes | str]) -> bytes:
    """A tar.gz; a text is where a symbolic link leads."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def archive_of(content: bytes, file: str = "things.tar.gz") -> Archive:
    return Archive("Things", f"https://example.org/{file}", hashlib.md5(content).hexdigest(), "things")


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir()) if root.exists() else []


GOOD = {"things/a": b"1", "things/deep/b": b"2"}


@pytest.mark.parametrize(("pack", "file"), [(tar, "things.tar.gz"), (zipped, "things.zip")])
def test_an_absent_archive_is_downloaded_checked_and_unpacked_once(tmp_path, server, capsys, pack, file):
    server.content = pack(GOOD)
    store = Store(tmp_path / "new" / "root", mirror=server.url)
    for _ in range(2):
        folder = store.folder(archive_of(server.content, file))
        assert (folder / "a").read_bytes() == b"1"
        assert (folder / "deep" / "b").read_bytes() == b"2"
    assert server.asked == [f"/{file}"]
    assert names(store.root) == ["things", file]
    assert (store.root / file).stat().st_mode & 0o777 == 0o644
    assert "Downloading Things" in capsys.readouterr().err


@pytest.mark.parametrize(("pack", "file"), [(tar, "things.tar.gz"), (zipped, "things.zip")])
def test_an_archive_that_is_there_is_unpacked_without_a_network(tmp_path, pack, file):
    (tmp_path / file).write_bytes(pack(GOOD))
    folder = Store(tmp_path, download=False).folder(archive_of(pack(GOOD), file))
    assert (folder / "deep" / "b").read_bytes() == b"2"


def test_cifar10_is_read_from_a_download(tmp_path, server):
    write_cifar10(tmp_path / "made" / "cifar-10-batches-py")
    members = {
        str(f.relative_to(tmp_path / "made")): f.read_bytes() for f in (tmp_path / "made").rglob("*") if f.is_file()
    }
    server.content = tar(members)
    (tmp_path / "there").write_bytes(server.content)
    cifar = replace(CIFAR10, archive=replace(CIFAR10.archive, md5=md5(tmp_path / "there")))
    assert len(cifar.read(Store(tmp_path / "root", mirror=server.url)).train_images) == 100


def test_what_has_another_sum_is_not_kept(tmp_path, server):
    server.content = tar(GOOD) + b"!"
    with pytest.raises(DataError, match=r"is not the published Things archive.*was not kept") as caught:
        Store(tmp_path, mirror=server.url).folder(archive_of(tar(GOOD)))
    assert str(tmp_path / "things.tar.gz") in str(caught.value)
    assert names(tmp_path) == []


def test_an_interrupted_download_leaves_nothing(tmp_path, server):
    whole = tar(GOOD)
    server.content, server.length = whole[:50], len(whole)
    with pytest.raises(DataError, match=r"50 bytes came|could not be downloaded"):
        Store(tmp_path, mirror=server.url).folder(archive_of(whole))
    assert names(tmp_path) == []


def test_a_download_that_is_stopped_by_hand_leaves_nothing(tmp_path, server, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    server.content = tar(GOOD)
    monkeypatch.setattr("shutil.copyfileobj", stop)
    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path, mirror=server.url).folder(archive_of(server.content))
    assert names(tmp_path) == []


def test_without_a_server_the_error_says_where_to_put_the_files(tmp_path):
    places = [
        str(tmp_path / "things.tar.gz"),
        str(tmp_path / "things"),
        "https://example.org/things.tar.gz",
        "--data-root",
    ]
    for store in (Store(tmp_path, mirror="http://127.0.0.1:9", patience=2), Store(tmp_path, download=False)):
        with pytest.raises(DataError) as caught:
            store.folder(archive_of(tar(GOOD)))
        assert all(place in str(caught.value) for place in places)


def test_a_server_that_has_it_not_is_named(tmp_path, server):
    with pytest.raises(DataError, match=r"could not be downloaded from http://127.0.0.1.*404"):
        Store(tmp_path, mirror=server.url).folder(archive_of(tar(GOOD)))
    assert names(tmp_path) == []


def test_a_damaged_archive_that_is_there_is_named_and_left(tmp_path):
    (tmp_path / "things.tar.gz").write_bytes(tar(GOOD)[:60])
    with pytest.raises(DataError, match=r"things.tar.gz is not the published.*60 bytes found.*Delete it"):
        Store(tmp_path).folder(archive_of(tar(GOOD)))
    assert (tmp_path / "things.tar.gz").read_bytes() == tar(GOOD)[:60]
    assert names(tmp_path) == ["things.tar.gz"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("things.tar.gz", tar({**GOOD, "../outside": b"x"}), "outside"),
        ("things.tar.gz", tar({**GOOD, "things/../../outside": b"x"}), "outside"),
        ("things.tar.gz", tar({**GOOD, "/tmp/earlycrop-outside": b"x"}), "outside"),
        ("things.tar.gz", tar({"things/link": "/etc", "things/link/x": b"x"}), "no plain file"),
        ("things.tar.gz", tar({"other/a": b"x"}), "does not hold the folder things"),
        ("things.tar.gz", tar(GOOD)[:60], "cannot be unpacked"),
        ("things.tar.gz", b"", "cannot be unpacked"),
        ("things.zip", zipped({**GOOD, "../outside": b"x"}), "outside"),
        ("things.zip", zipped(GOOD)[:60], "cannot be unpacked"),
    ],
    ids=lambda value: "bytes" if isinstance(value, bytes) else None,  # they hold the time of day
)
def test_a_bad_archive_puts_nothing_in_place(tmp_path, file, content, message):
    root = tmp_path / "a" / "root"
    root.mkdir(parents=True)
    (root / file).write_bytes(content)
    with pytest.raises(DataError, match=message):
        Store(root).folder(archive_of(content, file))
    assert names(root) == [file]
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == ["root"]
    assert not Path("/tmp/earlycrop-outside").exists()

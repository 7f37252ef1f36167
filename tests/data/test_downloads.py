"""Downloads: resumed, from the next source, and what is said when all fail."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from made_data import arrays, cifar100_archive, md5

from imcl_core.data import download
from imcl_core.data.download import Archive
from imcl_core.data.sets import load
from imcl_core.errors import ImclError


@pytest.fixture
def folder(tmp_path):
    made = arrays()
    np.savez(tmp_path / "cifar10.npz", **made)
    return tmp_path


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, mode = self.server, self.path.split("/")[1]
        wanted = self.headers.get("Range")
        server.log.append((mode, wanted))
        content = b"x" * len(server.content) if mode == "wrong" else server.content
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and mode != "norange" else 0
        if mode == "missing" or start >= len(content):
            return self.send_error(404 if mode == "missing" else 416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = start + 1000 if mode == "breaks" else 700 if mode == "short" else len(content)
        self.wfile.write(content[start:stop])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = arrays(train=20, test=10)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.content, httpd.log, httpd.made = cifar100_archive(made), [], made
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def sources(*modes):
        urls = tuple(f"http://127.0.0.1:{httpd.server_port}/{mode}/c.tar.gz" for mode in modes)
        archive = Archive("c.tar.gz", md5(httpd.content), urls, download.read_cifar100)
        monkeypatch.setitem(download.ARCHIVES, "cifar100", archive)

    httpd.sources = sources
    yield httpd
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def loads(server, folder):
    data = load("cifar100", folder=folder, progress=False)
    assert np.array_equal(data.train.images.permute(0, 2, 3, 1), server.made["x_train"])
    assert np.array_equal(data.test.labels, server.made["y_test"])


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_download_falls_through_bad_sources_and_leaves_only_the_npz(server, tmp_path):
    server.sources("missing", "wrong", "good", "missing")
    loads(server, tmp_path / "new" / "folder")
    assert [mode for mode, _ in server.log] == ["missing", "wrong", "good"]
    assert names(tmp_path / "new" / "folder") == ["c.tar.gz.part.corrupt", "cifar100.npz"]
    loads(server, tmp_path / "new" / "folder")
    assert len(server.log) == 3  # nothing is downloaded twice


def test_download_resumes_a_part(server, tmp_path):
    server.sources("good")
    (tmp_path / "c.tar.gz.part").write_bytes(server.content[:1234])
    loads(server, tmp_path)
    assert server.log == [("good", "bytes=1234-")]
    assert names(tmp_path) == ["cifar100.npz"]


def test_download_of_a_complete_part_asks_for_nothing_more(server, tmp_path):
    server.sources("good")
    (tmp_path / "c.tar.gz.part").write_bytes(server.content)
    loads(server, tmp_path)
    assert names(tmp_path) == ["cifar100.npz"]


def test_a_server_that_ignores_range_restarts_cleanly(server, tmp_path):
    server.sources("norange")
    (tmp_path / "c.tar.gz.part").write_bytes(server.content[:1234])
    loads(server, tmp_path)
    assert server.log == [("norange", "bytes=1234-")]
    assert names(tmp_path) == ["cifar100.npz"]


def test_a_bad_part_is_moved_aside_and_the_same_source_tried_afresh(server, tmp_path):
    server.sources("good")
    (tmp_path / "c.tar.gz.part").write_bytes(b"?" * 1234)
    loads(server, tmp_path)
    assert server.log == [("good", "bytes=1234-"), ("good", None)]
    assert names(tmp_path) == ["c.tar.gz.part.corrupt", "cifar100.npz"]


def test_a_connection_that_keeps_breaking_is_resumed_until_whole(server, tmp_path):
    server.made = arrays(train=2, test=1, classes=1)
    server.content = cifar100_archive(server.made)
    server.sources("breaks")
    loads(server, tmp_path)
    assert server.log[:3] == [("breaks", None), ("breaks", "bytes=1000-"), ("breaks", "bytes=2000-")]


def test_a_truncated_answer_is_finished_by_the_next_source(server, tmp_path):
    server.sources("short", "good")
    loads(server, tmp_path)
    assert server.log[0] == ("short", None)
    assert server.log[-1] == ("good", "bytes=700-")


def test_when_every_source_fails_the_message_says_what_to_put_where(server, tmp_path):
    server.sources("missing", "wrong")
    with pytest.raises(ImclError) as error:
        load("cifar100", folder=tmp_path, progress=False)
    message = str(error.value)
    for part in ("cifar100.npz", "c.tar.gz", md5(server.content), str(tmp_path), "404", "wrong MD5"):
        assert part in message
    assert "\n" not in message
    assert names(tmp_path) == ["c.tar.gz.part.corrupt"]


def test_without_a_network_there_is_one_clear_sentence(tmp_path, monkeypatch):
    archive = Archive("c.tar.gz", "0" * 32, ("http://127.0.0.1:9/c.tar.gz",), download.read_cifar100)
    monkeypatch.setitem(download.ARCHIVES, "cifar100", archive)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(ImclError, match=r"Could not download cifar100: put the original c\.tar\.gz"):
        load("cifar100", folder=tmp_path, progress=False)


def test_an_archive_with_a_wrong_md5_is_moved_aside_never_over_another_and_fetched_anew(server, tmp_path):
    server.sources("good")
    (tmp_path / "c.tar.gz").write_bytes(b"half a file")
    (tmp_path / "c.tar.gz.corrupt").write_bytes(b"an earlier one")
    loads(server, tmp_path)
    assert (tmp_path / "c.tar.gz.corrupt").read_bytes() == b"an earlier one"
    assert (tmp_path / "c.tar.gz.corrupt.1").read_bytes() == b"half a file"


def test_processes_that_miss_the_same_file_download_it_once(server, tmp_path):
    server.sources("good")
    arguments = ("cifar100", tmp_path, False)
    threads = [threading.Thread(target=download.prepare, args=arguments) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.log == [("good", None)]
    assert names(tmp_path) == ["cifar100.npz"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ImclError, match=r"Cannot make .*file.*IMCL_DATA"):
        load("cifar100", folder=tmp_path / "file")

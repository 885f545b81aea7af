"""Downloading from a server on this machine: whole, cut, wrong, missing."""

import subprocess
import sys
import threading
from dataclasses import replace
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from experiment.config import ConfigError
from studies.warm_start import download as module
from studies.warm_start import files
from studies.warm_start.download import download, ensure
from studies.warm_start.download.__main__ import main

CONTENT = bytes(range(256)) * 400


class Handler(BaseHTTPRequestHandler):
    """Serves `server.content`; the first `server.cuts` answers end after `server.sent` bytes."""

    def do_GET(self):
        server = self.server
        server.requests.append(self.headers["Range"])
        if server.content is None:
            self.send_error(404)
            return
        start = int(self.headers["Range"].split("=")[1].rstrip("-")) if server.ranges else 0
        self.send_response(206 if server.ranges else 200)
        self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        rest = server.content[start:]
        if server.cuts:
            server.cuts -= 1
            rest = rest[: server.sent]
        self.wfile.write(rest)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server of CONTENT, which is what is wanted as the CIFAR-10 archive."""
    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.content, served.ranges, served.cuts, served.sent, served.requests = CONTENT, True, 0, 30_000, []
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    want(monkeypatch, f"http://127.0.0.1:{served.server_address[1]}/archive.tar.gz")
    monkeypatch.setattr(module, "PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "*")
    yield served
    served.shutdown()
    served.server_close()
    thread.join()


def want(monkeypatch, url):
    source = files.SOURCES["cifar10"]
    remote = replace(source.remotes[0], url=url, size=len(CONTENT), md5=md5(CONTENT).hexdigest())
    monkeypatch.setitem(files.SOURCES, "cifar10", replace(source, remotes=(remote,)))


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


def complaint(folder):
    with pytest.raises(ConfigError) as caught:
        download("cifar10", str(folder))
    line = str(caught.value)
    assert "\n" not in line
    assert "--data-dir" in line
    return line


def test_a_whole_file_is_fetched_once(server, tmp_path, capsys):
    folder = tmp_path / "new" / "data"
    assert download("cifar10", str(folder)) == folder
    assert names(folder) == ["cifar-10-binary.tar.gz"]
    assert (folder / "cifar-10-binary.tar.gz").read_bytes() == CONTENT
    assert f"100% {len(CONTENT):,}/{len(CONTENT):,} bytes" in capsys.readouterr().out
    download("cifar10", str(folder))
    assert len(server.requests) == 1
    (folder / "cifar-10-binary.tar.gz").write_bytes(CONTENT[:-1])
    download("cifar10", str(folder))
    assert (folder / "cifar-10-binary.tar.gz").read_bytes() == CONTENT


def test_a_cut_connection_is_taken_up_where_it_stopped(server, tmp_path):
    server.cuts = 2
    download("cifar10", str(tmp_path))
    assert (tmp_path / "cifar-10-binary.tar.gz").read_bytes() == CONTENT
    assert server.requests == ["bytes=0-", "bytes=30000-", "bytes=60000-"]


def test_a_server_that_cannot_go_on_starts_again(server, tmp_path):
    server.ranges, server.cuts = False, 2
    download("cifar10", str(tmp_path))
    assert (tmp_path / "cifar-10-binary.tar.gz").read_bytes() == CONTENT


def test_one_that_is_always_cut_leaves_nothing(server, tmp_path):
    server.ranges, server.cuts = False, 10**9
    assert "it ended after 30,000 of 102,400 bytes" in complaint(tmp_path)
    assert len(server.requests) == 1 + module.TRIES
    assert names(tmp_path) == []


def test_other_content_leaves_what_was_there(server, tmp_path):
    target = tmp_path / "cifar-10-binary.tar.gz"
    target.write_bytes(b"old")
    server.content = CONTENT[::-1]
    assert "is not the official file: its md5 is" in complaint(tmp_path)
    server.content = b"<html>log in first</html>"
    assert "is not the official file: 25 bytes, not 102,400" in complaint(tmp_path)
    server.content = None
    assert "HTTP 404 Not Found" in complaint(tmp_path)
    assert len(server.requests) == 3
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == [target.name]


def test_no_network(server, tmp_path, monkeypatch):
    want(monkeypatch, "http://127.0.0.1:1/archive.tar.gz")
    assert "refused" in complaint(tmp_path)
    assert names(tmp_path) == []
    assert server.requests == []


def test_a_stop_leaves_nothing(server, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.Progress, "update", stop)
    with pytest.raises(KeyboardInterrupt):
        download("cifar10", str(tmp_path))
    assert names(tmp_path) == []


def test_ensure_leaves_alone_what_is_there_and_what_is_mistyped(server, tmp_path, monkeypatch):
    ensure("digits", None)
    ensure("cifar10", str(tmp_path / "typo"))
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "data_batch_1.bin").write_bytes(b"")
    ensure("cifar10", str(tmp_path / "part"))
    assert server.requests == []
    monkeypatch.setenv("REWARM_DATA", str(tmp_path / "default"))
    ensure("cifar10", None)
    ensure("cifar10", None)
    assert len(server.requests) == 1
    assert names(tmp_path / "default") == ["cifar-10-binary.tar.gz"]


def test_the_command(server, tmp_path, capsys):
    assert main(["cifar10", "--data-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"in {tmp_path}"
    with pytest.raises(SystemExit) as caught:
        main(["cifar"])
    assert caught.value.code == 2
    assert "cifar10" in capsys.readouterr().err


def test_the_command_needs_no_torch():
    code = "import sys, studies.warm_start.download.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

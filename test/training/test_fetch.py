"""`mnv2 fetch` against a server on this machine: whole, cut off, damaged, absent."""

from collections.abc import Iterator
import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
import threading

import numpy as np
import pytest

from mnv2_perception.cli import main as cli
from mnv2_perception.errors import ModelError, SetupError
from mnv2_perception.training.fetch import cache_folder, fetch, PUBLISHED, Published

CONTENT = np.random.default_rng(0).bytes(300_000)
NAME, FILE_NAME = 'mobilenet_v2', 'weights.pth'


class Server(ThreadingHTTPServer):
    """Serves CONTENT under every path.

    Attributes:
        ranges: whether it answers Range requests, as most do.
        announces_length: whether it says how many bytes come.
        cut: it closes the connection after so many bytes.
        status: of its answers, where no range is asked for.
        requests: the Range header of each request, '' for none.
    """

    ranges = True
    announces_length = True
    cut = len(CONTENT)
    status = 200

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.requests: list[str] = []
        self.url = f'http://127.0.0.1:{self.server_port}/{FILE_NAME}'


class Handler(BaseHTTPRequestHandler):
    """Answers as its server says."""

    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get('Range', '')
        self.server.requests.append(asked)
        start = int(asked[len('bytes='):-1]) if asked and self.server.ranges else 0
        status = self.server.status
        if status == 200 and start:
            status = 206 if start < len(CONTENT) else 416
        self.send_response(status)
        body = CONTENT[start:] if status < 400 else b''
        if self.server.announces_length:
            self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cut])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('no_proxy', '127.0.0.1')


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serve CONTENT as the published weights NAME."""
    with Server() as server:
        digest = hashlib.sha256(CONTENT).hexdigest()
        monkeypatch.setitem(PUBLISHED, NAME, Published(server.url, digest, 0.3, 72.0))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize('announces_length', [True, False])
def test_a_file_comes_whole_and_once(
    server: Server, tmp_path: Path, announces_length: bool
) -> None:
    server.announces_length = announces_length
    folder = tmp_path / 'new/cache'
    seen: list[tuple[int, int]] = []
    path = fetch(NAME, folder, lambda done, total: seen.append((done, total)))
    assert path == folder / FILE_NAME and path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT) if announces_length else 0)
    assert len(seen) > 2
    assert fetch(NAME, folder) == path
    assert server.requests == [''] and names(folder) == [FILE_NAME]


@pytest.mark.parametrize('ranges', [True, False])
def test_a_transfer_that_was_cut_off_goes_on(
    server: Server, tmp_path: Path, ranges: bool
) -> None:
    server.cut = 100_000
    server.ranges = ranges
    with pytest.raises(SetupError, match='broke after 100000 of 300000 bytes; try again'):
        fetch(NAME, tmp_path)
    assert names(tmp_path) == [f'{FILE_NAME}.partial']
    server.cut = len(CONTENT)
    assert fetch(NAME, tmp_path).read_bytes() == CONTENT
    assert server.requests == ['', 'bytes=100000-']
    assert names(tmp_path) == [FILE_NAME]


def test_a_partial_file_that_is_whole_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / f'{FILE_NAME}.partial').write_bytes(CONTENT)
    assert fetch(NAME, tmp_path).read_bytes() == CONTENT
    assert server.requests == ['bytes=300000-']  # answered with 416


@pytest.mark.parametrize('rest', [b'of another file', CONTENT + b'too long'])
def test_a_partial_file_of_something_else_is_removed(
    server: Server, tmp_path: Path, rest: bytes
) -> None:
    (tmp_path / f'{FILE_NAME}.partial').write_bytes(rest)
    with pytest.raises(ModelError, match=r'its sha256 is .*removed; fetch it again'):
        fetch(NAME, tmp_path)
    assert names(tmp_path) == []
    assert fetch(NAME, tmp_path).read_bytes() == CONTENT


def test_a_file_of_the_user_that_is_not_the_published_one_is_left(
    server: Server, tmp_path: Path
) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(b'put here by hand, cut short')
    with pytest.raises(ModelError, match=rf'its sha256 is .*{server.url}.*; move it away'):
        fetch(NAME, tmp_path)
    assert path.read_bytes() == b'put here by hand, cut short' and server.requests == []


def test_without_a_network_it_says_where_to_put_the_file(tmp_path: Path) -> None:
    with Server() as server:
        url = server.url  # nobody listens there once it is closed
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PUBLISHED, NAME, Published(url, '0' * 64, 0.3, 72.0))
        told = f'{url} cannot be fetched: .*refused.* yourself as {tmp_path / FILE_NAME}$'
        with pytest.raises(SetupError, match=told):
            fetch(NAME, tmp_path)
    assert names(tmp_path) == []


def test_a_refusal_of_the_server_is_told(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(SetupError, match='HTTP Error 404: Not Found'):
        fetch(NAME, tmp_path)
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_told(server: Server, tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(SetupError, match=r'file/cache: cannot be created: .* XDG_CACHE_HOME'):
        fetch(NAME, tmp_path / 'file/cache')


def test_the_cache_is_xdgs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('XDG_CACHE_HOME', '/x')
    assert cache_folder() == Path('/x/mnv2_perception')
    monkeypatch.setenv('XDG_CACHE_HOME', '')
    assert cache_folder() == Path.home() / '.cache/mnv2_perception'


def test_the_command_prints_the_path_alone(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert cli.main(['fetch', NAME]) == 0
    assert cli.main(['fetch', NAME, '--cache', str(tmp_path / 'other')]) == 0
    assert capsys.readouterr() == (
        f'{tmp_path}/mnv2_perception/{FILE_NAME}\n{tmp_path}/other/{FILE_NAME}\n', ''
    )


def test_progress_goes_to_a_terminal(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr('sys.stderr.isatty', lambda: True)
    assert cli.main(['fetch', NAME, '--cache', str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert out == f'{tmp_path / FILE_NAME}\n'
    assert err.startswith(f'{NAME}: 0.1 of 0.3 MB\r') and err.endswith('0.3 of 0.3 MB\n')


def test_without_a_name_it_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(['fetch']) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:-1]}
    assert set(rows) == set(PUBLISHED)
    assert rows['mobilenet_v3_small'] == ['10.3', '67.7', 'BSD-3-Clause']
    assert cli.main(['fetch', 'resnet50']) == 1
    assert 'mobilenet_v3_small' in capsys.readouterr().err


def test_the_hashes_are_those_in_the_publishers_file_names() -> None:
    for item in PUBLISHED.values():
        digits = item.url.removesuffix('.pth').rpartition('-')[2]
        assert len(item.sha256) == 64 and item.sha256.startswith(digits)

"""Download published ImageNet weights once, verify them, and keep them in the cache folder."""

from collections.abc import Callable
from dataclasses import dataclass
import hashlib
from http.client import HTTPException
import os
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from mnv2_perception.errors import ModelError, SetupError

TERMS = (
    "The licence is the publisher's; ImageNet, on which the weights were trained, has its own "
    'terms.'
)
CHUNK = 1 << 16  # bytes
TIMEOUT_S = 30.0  # without any data


@dataclass(frozen=True)
class Published:
    """A published file, and what to know before using it.

    Attributes:
        url: address; its last part is the file name in the cache folder.
        sha256: hash in hexadecimal digits.
        megabytes: size / 10⁶ bytes.
        top1: ImageNet top-1 accuracy in %, as published.
        licence: SPDX identifier.
    """

    url: str
    sha256: str
    megabytes: float
    top1: float
    licence: str = 'BSD-3-Clause'

    @property
    def file_name(self) -> str:
        """File name: the last part of the URL."""
        return self.url.rpartition('/')[2]


TORCHVISION = 'https://download.pytorch.org/models/'
# From https://pytorch.org/vision/stable/models.html; plain names are torchvision's DEFAULT.
PUBLISHED = {
    'mobilenet_v2': Published(
        f'{TORCHVISION}mobilenet_v2-7ebf99e0.pth',
        '7ebf99e03e254b273379b23edca7ec0da9f48273b23a332b93c1c99d49e86e8f', 14.3, 72.2,
    ),
    'mobilenet_v2_imagenet1k_v1': Published(
        f'{TORCHVISION}mobilenet_v2-b0353104.pth',
        'b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889', 14.2, 71.9,
    ),
    'mobilenet_v3_large': Published(
        f'{TORCHVISION}mobilenet_v3_large-5c1a4163.pth',
        '5c1a416349c4cf298f2a6a5e2600ed0ee55e604713578f5e74e6bc8bcaef7997', 22.1, 75.3,
    ),
    'mobilenet_v3_large_imagenet1k_v1': Published(
        f'{TORCHVISION}mobilenet_v3_large-8738ca79.pth',
        '8738ca797c879b547d18bbd15da5736ff2557b2036a9af72225393ca61759a04', 22.1, 74.0,
    ),
    'mobilenet_v3_small': Published(
        f'{TORCHVISION}mobilenet_v3_small-047dcff4.pth',
        '047dcff4addef86ea5bc2eff13c9614dc11f47ab1160d0a71a25e7db994f4e1f', 10.3, 67.7,
    ),
}  # fmt: skip

Progress = Callable[[int, int], None]  # bytes received, bytes of the whole file (0: unknown)


def cache_folder() -> Path:
    """Return $XDG_CACHE_HOME/mnv2_perception, or ~/.cache/mnv2_perception.

    Raises:
        SetupError: the user has no home folder.
    """
    try:
        cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    except RuntimeError as exc:
        raise SetupError(
            'this user has no home folder to store weights in; set XDG_CACHE_HOME to a folder'
        ) from exc
    return cache / 'mnv2_perception'


def list_published() -> str:
    """Return names, sizes, accuracies and licences as a table."""
    width = max(len(name) for name in PUBLISHED)
    lines = [f'{"name":<{width}}  size, MB  ImageNet top-1, %  licence']
    lines += [
        f'{name:<{width}}  {item.megabytes:>8}  {item.top1:>17}  {item.licence}'
        for name, item in PUBLISHED.items()
    ]
    return '\n'.join([*lines, TERMS])


def fetch(name: str, folder: Path, progress: Progress | None = None) -> Path:
    """Return the path of published weights; download them unless the cache folder has them.

    An interrupted download is continued.

    Args:
        name: one of PUBLISHED.
        folder: cache folder; created if missing.
        progress: called repeatedly during the download.

    Raises:
        ModelError: the name is unknown, or the file is not the published one; a new download is
            then removed, an existing file is kept.
        SetupError: the server cannot be reached, the download broke off, or the folder cannot be
            written.
    """
    if name not in PUBLISHED:
        raise ModelError(f'weights {name!r} are unknown; known are {", ".join(PUBLISHED)}')
    published = PUBLISHED[name]
    path = folder / published.file_name
    if path.is_file():
        check_hash(path, published, 'move it away, or give another --cache')
        return path
    partial = path.with_name(f'{path.name}.partial')
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise SetupError(
            f'{folder}: cannot be created: {exc.strerror}; give another --cache, or set '
            f'XDG_CACHE_HOME to a writable folder'
        ) from exc
    try:
        download(published.url, partial, progress)
        try:
            check_hash(partial, published, 'the file was removed; fetch it again')
        except ModelError:
            partial.unlink()
            raise
        partial.replace(path)
    except (OSError, HTTPException) as exc:
        raise SetupError(
            f'{published.url} cannot be fetched: {exc or type(exc).__name__}; try again, or save '
            f'the file yourself as {path}'
        ) from exc
    return path


def download(url: str, partial: Path, progress: Progress | None) -> None:
    """Download the part of a URL that `partial` lacks, and append it.

    Raises:
        OSError, HTTPException: network or disk failed, or less arrived than announced.
    """
    done = partial.stat().st_size if partial.exists() else 0
    request = Request(url, headers={'Range': f'bytes={done}-'} if done else {})
    try:
        response = urlopen(request, timeout=TIMEOUT_S)
    except HTTPError as exc:
        if done and exc.code == 416:  # nothing is missing; the hash is checked later
            return
        raise
    with response:
        if response.status != 206:  # the server sends the whole file again
            done = 0
        length = response.headers.get('Content-Length')
        total = done + int(length) if length else 0
        with partial.open('ab' if done else 'wb') as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                done += len(chunk)
                if progress:
                    progress(done, total)
    if done < total:
        raise ConnectionError(f'the connection broke after {done} of {total} bytes')


def check_hash(path: Path, published: Published, cure: str) -> None:
    """Check that a file is the published one; `cure` is the end of the error message.

    Raises:
        ModelError: it is not.
    """
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != published.sha256:
        raise ModelError(
            f'{path}: its sha256 is {digest}, but that of {published.url} is {published.sha256}; '
            f'{cure}'
        )

"""zstd: in the standard library since Python 3.14; before, rosbags brings a copy of it."""

import sys

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ['zstd']

"""To send a file that is open already, so that nobody can delete it between the answer's first line and its last."""

from __future__ import annotations

import os
from io import FileIO

from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

__all__ = ["OpenFile"]


class OpenFile(FileResponse):
    """A `FileResponse`, with ranges and all, of an open file; it closes the file.

    Args:
        file: open to be read.
        media_type: what it is.
        filename: the name under which a browser keeps it; None to say nothing of that.
    """

    def __init__(self, file: FileIO, media_type: str, filename: str | None = None) -> None:
        self._file = file
        path = f"/dev/fd/{file.fileno()}"  # it leads to the file itself, though its own path may be gone
        super().__init__(path, media_type=media_type, filename=filename, stat_result=os.fstat(file.fileno()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        with self._file:
            await super().__call__(scope, receive, send)

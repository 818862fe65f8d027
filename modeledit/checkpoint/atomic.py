"""Files that are there whole or not at all, with the permissions the user's umask asks for."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

from modeledit.errors import CheckpointError

PUBLIC = 0o666
PRIVATE = 0o600


def write_file(
    path: Path,
    parts: Iterable[bytes],
    *,
    mode: int = PUBLIC,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Write beside the target, flush to disk, `check` what was written, then put it in place.

    mode: before the umask. A symbolic link stays a link; the file it names is replaced. Whatever
    goes wrong, the old file is as it was and no other is left behind.
    """
    target = path.resolve()
    temporary = sibling(target)
    try:
        # The kernel applies the umask here; reading it would change it for other threads.
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(temporary)
        temporary.replace(target)
        sync_directory(target.parent)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def sibling(path: Path) -> Path:
    """A name nobody has, in the same directory (a rename must not cross file systems)."""
    return path.with_name(f".{path.name[:64]}.{secrets.token_hex(8)}.tmp")


def sync_directory(path: Path) -> None:
    """Flush a directory's entries to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

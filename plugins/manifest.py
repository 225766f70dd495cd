"""manifest.sha256: a checksum of each file of a run's folder, as `sha256sum --check` reads it."""

from __future__ import annotations

import hashlib
from pathlib import Path

FILE = "manifest.sha256"


def write(folder: Path) -> None:
    """Over what lies there now, links and what is no plain file left out. Raises OSError."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    lines = [_line(path, folder) for path in paths if path != folder / FILE]
    (folder / FILE).write_text("".join(lines), encoding="utf-8", errors="surrogateescape")


def _line(path: Path, folder: Path) -> str:
    with path.open("rb") as file:
        told = hashlib.file_digest(file, "sha256").hexdigest()
    name = path.relative_to(folder).as_posix()
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{chr(92) if escaped != name else ''}{told}  {escaped}\n"  # as sha256sum marks a name that it escapes

"""Official archives: found under the data root, unpacked or downloaded there, verified, and never left half done."""

import hashlib
import http.client
import os
import shutil
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from earlycrop_lab.names import DataError


@dataclass(frozen=True)
class Archive:
    """An archive as its authors publish it.

    Args:
        title: The data set's name, for messages.
        url: The URL where it is published.
        md5: Its MD5 sum, in hexadecimal.
        folder: The name of the folder that it contains.
    """

    title: str
    url: str
    md5: str
    folder: str

    @property
    def file(self) -> str:
        """Its file name."""
        return self.url.rsplit("/", 1)[-1]


def data_root(said: Path | str | None) -> Path:
    """The folder of the data sets: the given one, or $EARLYCROP_DATA, or `data`."""
    return Path(said or os.environ.get("EARLYCROP_DATA") or "data")


@dataclass(frozen=True)
class Store:
    """The folder of the data sets, in their official forms, and where missing ones come from.

    Args:
        root: That folder.
        download: Whether to download a missing archive.
        mirror: A URL to download from instead of the official one; the file names are the same.
        patience: Seconds to wait for a server that does not respond.
    """

    root: Path
    download: bool = True
    mirror: str | None = None
    patience: float = 30.0

    def folder(self, archive: Archive) -> Path:
        """The archive's folder under the root; unpacked if only the archive exists, downloaded if neither does.

        Raises:
            DataError: It cannot be downloaded or unpacked, or the archive is not the published one. Existing files are
                not changed.
        """
        folder, file = self.root / archive.folder, self.root / archive.file
        if folder.is_dir():
            return folder
        if not file.is_file():
            self._download(archive, file)
        elif (found := md5(file)) != archive.md5:
            raise DataError(
                f"{file} is not the published {archive.title} archive: its MD5 sum is {found}, not {archive.md5} "
                f"({file.stat().st_size:,} bytes found). Delete it and get {archive.url} again."
            )
        unpack(file, archive.folder)
        return folder

    def _download(self, archive: Archive, file: Path) -> None:
        """Download to a temporary file, which is renamed once it is complete and has the right sum."""
        where = (
            f"Put {archive.url} (MD5 {archive.md5}) at {file.absolute()}, or its folder, unpacked, at "
            f"{file.with_name(archive.folder).absolute()}; another place is named with --data-root or EARLYCROP_DATA."
        )
        if not self.download:
            raise DataError(f"{archive.title} is not under {self.root.absolute()}. {where}")
        url = f"{self.mirror.rstrip('/')}/{archive.file}" if self.mirror else archive.url
        part = None
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with urllib.request.urlopen(url, timeout=self.patience) as source:
                print(f"Downloading {archive.title} from {url} to {file}", file=sys.stderr)
                with tempfile.NamedTemporaryFile(dir=self.root, prefix=f".{file.name}.", delete=False) as target:
                    part = Path(target.name)
                    shutil.copyfileobj(source, target, 2**20)
            found = md5(part)
            if found != archive.md5:
                raise DataError(
                    f"What {url} sent is not the published {archive.title} archive: its MD5 sum is {found}, not "
                    f"{archive.md5} ({part.stat().st_size:,} bytes came). It was not kept. Try again, or: {where}"
                )
            part.chmod(0o644)  # temporary files are readable only by their owner
            part.replace(file)
        except (OSError, http.client.HTTPException) as error:
            raise DataError(
                f"{archive.title} is not under {self.root.absolute()} and could not be downloaded from {url} "
                f"({error}). {where}"
            ) from error
        finally:
            if part is not None:
                part.unlink(missing_ok=True)


def md5(file: Path) -> str:
    """The file's MD5 sum, which detects damage but not forgery."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def unpack(file: Path, folder: str) -> None:
    """Unpack a folder from a tar or zip archive to the archive's own folder, completely or not at all.

    Only plain files and folders are accepted, and only paths inside the archive.

    Raises:
        DataError: The archive is damaged, contains anything else, or does not contain that folder.
    """
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{folder}.") as scratch:
        inside = Path(scratch).resolve()
        try:
            for name, content in contents(file):
                target = (inside / name).resolve()
                if not target.is_relative_to(inside):
                    raise DataError(f"{file} holds {name!r}, which lies outside of it. Nothing was unpacked.")
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as copy:
                    shutil.copyfileobj(content, copy)
        except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise DataError(
                f"{file} cannot be unpacked ({error}). Nothing was put in place. If the disk has room for it, "
                f"delete the file and get it again."
            ) from error
        if not (inside / folder).is_dir():
            raise DataError(f"{file} does not hold the folder {folder}. Nothing was unpacked.")
        if not (file.parent / folder).is_dir():  # otherwise another process was faster
            os.replace(inside / folder, file.parent / folder)


def contents(file: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield name and content of each file in a tar or zip archive."""
    if file.suffix == ".zip":
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                if not entry.is_dir():
                    with archive.open(entry) as content:
                        yield entry.filename, content
        return
    with tarfile.open(file) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                yield member.name, content
            elif not member.isdir():
                raise DataError(f"{file} holds {member.name!r}, which is no plain file. Nothing was unpacked.")

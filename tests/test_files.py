"""Whatever happens while a file is written (an error or the death of the process at any line, a full disk), what was
there before is there still, and the next writing leaves nothing else behind."""

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from earlycrop import files, load_state, save_state
from earlycrop.files import partial, replacing

OLD, NEW = {"old": torch.arange(3.0)}, {"new": torch.arange(50.0), "masked": torch.eye(20)}


def held(path: Path) -> str:
    """Which of the two states the file holds, whole."""
    found = load_state(path)
    ((name, expected),) = [(name, state) for name, state in (("old", OLD), ("new", NEW)) if name in found]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    return name


def at_line(number: int, act: Callable[[], None], body: Callable[[], object]) -> bool:
    """Do the body, and `act` as it reaches its n-th line of writing; whether there was one.

    Lines are those of the module, from where it first touches the disk.
    """
    reached = 0

    def trace(frame, event, argument):
        nonlocal reached
        if frame.f_code.co_filename != files.__file__:
            return None
        if event == "line" and (reached or frame.f_code.co_name == "replacing"):
            reached += 1
            if reached == number:
                act()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        body()
    finally:
        sys.settrace(before)
    return reached >= number


def in_a_child(body: Callable[[], object]) -> int:
    """How a process ends that only does this: its exit code, or minus the signal."""
    child = os.fork()
    if child == 0:
        try:
            body()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")  # the child does nothing but write
def test_killed_at_any_line(tmp_path):
    path, seen, left = tmp_path / "state", [], 0
    for line in range(1, 1000):
        save_state(OLD, path)
        assert os.listdir(tmp_path) == ["state"]

        def write(line=line):
            at_line(line, lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: save_state(NEW, path))

        ended = in_a_child(write)
        seen.append(held(path))
        left += len(os.listdir(tmp_path)) - 1
        assert all(partial(each) for each in tmp_path.iterdir() if each != path)
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
    assert left > 5  # some were cut off with a half-written file beside the old one
    assert seen == sorted(seen, reverse=True)  # the old one until a certain line, the new one from then on
    assert seen.count("old") > 20
    assert seen.count("new") > 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # between a file's opening and its block
@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_an_error_at_any_line(kind, tmp_path):
    path, seen = tmp_path / "state", []

    def fail():
        raise kind(errno.ENOSPC, "No space left on device")

    for line in range(1, 1000):
        save_state(OLD, path)
        there = None
        with suppress(kind):
            there = at_line(line, fail, lambda: save_state(NEW, path))
        if there is False:
            break
        if there is None:
            seen.append(held(path))
        else:  # it was an error that means nothing, such as that of a file system without locks
            assert held(path) == "new"
        left = [each for each in tmp_path.iterdir() if each != path]
        assert len(left) <= 1  # where the line was the one that would have tidied up
        assert all(map(partial, left))
    assert seen == sorted(seen, reverse=True)
    assert seen.count("old") > 15
    assert seen.count("new") > 3
    save_state(NEW, path)
    assert os.listdir(tmp_path) == ["state"]


def test_a_file_is_put_in_place_after_the_disk_has_it(tmp_path, monkeypatch):
    """In this order: its bytes, its name, and that the folder has the name."""
    path, did = tmp_path / "file", []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor):
        target = os.readlink(f"/proc/self/fd/{descriptor}")
        did.append("folder" if target == str(tmp_path) else Path(target).read_bytes())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", lambda *a: (did.append("name"), replace(*a)))
    with replacing(path) as file:
        file.write(b"all of it")
        assert not path.exists()
    assert did == [b"all of it", "name", "folder"]
    assert path.read_bytes() == b"all of it"
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()  # as any other file


def umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


def test_a_half_written_file_of_a_living_process_stays(tmp_path):
    path = tmp_path / "[x] state"
    code = """
import sys
from earlycrop.files import replacing
with replacing(sys.argv[1]) as file:
    file.write(b"slow")
    print(file.name, flush=True)
    input()
"""
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        begun = Path(other.stdout.readline().strip())
        (tmp_path / ".[x] state.0123abcd.partial").write_bytes(b"of a dead one")
        (tmp_path / ".another.0123abcd.partial").write_bytes(b"of another file")
        with replacing(path) as file:
            file.write(b"fast")
        assert path.read_bytes() == b"fast"
        assert sorted(each.name for each in tmp_path.iterdir()) == sorted(
            ["[x] state", begun.name, ".another.0123abcd.partial"]
        )
        other.communicate("\n")
    assert other.returncode == 0
    assert path.read_bytes() == b"slow"
    assert not begun.exists()


# Full disks ---------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 kB; making one is root's."""
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("no file system can be mounted here")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def test_a_full_disk_leaves_what_was_there(small_disk):
    path = small_disk / "state"
    save_state(OLD, path)
    for size in (20_000, 17_000, 15_500):  # in numbers of four bytes
        with pytest.raises(OSError, match=r"No space left on device.*state'") as found:
            save_state({"large": torch.rand(size), "small": torch.rand(7)}, path)
        assert found.value.errno == errno.ENOSPC
        assert held(path) == "old"
        assert os.listdir(small_disk) == ["state"]
    save_state(NEW, path)
    assert held(path) == "new"


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_a_limit_on_the_size_of_files_leaves_what_was_there(tmp_path):
    path = tmp_path / "state"
    save_state(OLD, path)

    def write():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            save_state({"large": torch.rand(2000)}, path)
        except OSError as error:
            os._exit(7 if error.errno == errno.EFBIG and error.filename == str(path) else 8)

    assert in_a_child(write) == 7
    assert held(path) == "old"
    assert os.listdir(tmp_path) == ["state"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/state"):
        save_state(OLD, tmp_path / "file" / "state")

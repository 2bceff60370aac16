"""Files in parts: whole or as they were, whatever a kill leaves; and small enough to be carried."""

import pytest

from kdlib.tools import files
from kdlib.tools.files import (
    own_records_folder,
    read_in_parts,
    records_folder,
    remove_in_parts,
    write_in_parts,
)


def content(size, first=0):
    return bytes((first + k) % 251 for k in range(size))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_there_and_back_in_parts_below_the_limit(tmp_path):
    path = tmp_path / "state"
    for size, count in ((0, 1), (10, 1), (100, 11), (95, 11), (9, 1)):  # ten parts and the list of them
        write_in_parts(path, content(size), limit=10)
        assert read_in_parts(path) == content(size) and len(names(tmp_path)) == count
        assert all(part.stat().st_size <= 10 for part in tmp_path.iterdir() if part != path)
    write_in_parts(path, content(30), limit=10)
    remove_in_parts(path)
    assert names(tmp_path) == []
    assert files.PART < 16 * 2**20


@pytest.mark.parametrize("killed_at", range(4))
def test_a_kill_while_writing_leaves_the_old_content(tmp_path, monkeypatch, killed_at):
    path, calls, write = tmp_path / "state", [], files.write_whole
    write_in_parts(path, content(30), limit=10)

    def failing(*given):
        calls.append(given)
        if len(calls) > killed_at:
            raise KeyboardInterrupt
        write(*given)

    monkeypatch.setattr(files, "write_whole", failing)
    with pytest.raises(KeyboardInterrupt):
        write_in_parts(path, content(30, first=7), limit=10)
    assert read_in_parts(path) == content(30)
    monkeypatch.setattr(files, "write_whole", write)
    write_in_parts(path, content(30, first=9), limit=10)
    assert read_in_parts(path) == content(30, first=9) and len(names(tmp_path)) == 4  # nothing is left over


def test_the_parts_of_a_neighbour_are_left_alone(tmp_path):
    """`state` and `state.msgpack` in one folder."""
    write_in_parts(tmp_path / "state.msgpack", content(30), limit=10)
    write_in_parts(tmp_path / "state", content(30, first=9), limit=10)
    assert read_in_parts(tmp_path / "state.msgpack") == content(30)
    remove_in_parts(tmp_path / "state")
    assert read_in_parts(tmp_path / "state.msgpack") == content(30) and len(names(tmp_path)) == 4


def test_a_lost_or_damaged_part_is_noticed(tmp_path):
    path = tmp_path / "state"
    write_in_parts(path, content(30), limit=10)
    part = next(one for one in sorted(tmp_path.iterdir()) if one != path)
    whole = part.read_bytes()
    part.write_bytes(whole[:-1] + b"?")
    with pytest.raises(ValueError, match="missing or damaged"):
        read_in_parts(path)
    part.unlink()
    with pytest.raises(ValueError, match=f"{part.name} is missing or damaged: remove state"):
        read_in_parts(path)


def test_a_run_by_hand_leaves_nothing_where_the_book_is_read_from(monkeypatch):
    monkeypatch.delenv("KDLIB_RECORDS", raising=False)
    assert own_records_folder() != records_folder()
    monkeypatch.setenv("KDLIB_RECORDS", "somewhere")
    assert own_records_folder() == records_folder()

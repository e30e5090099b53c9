"""Who else could have written or read a file: owner and mode, before it is believed.

Sources: PostgreSQL's rule for private keys (src/backend/libpq/be-secure-common.c), and OpenSSH's
for files and the folders above them (`StrictModes`, misc.c: safe_path).
"""

import grp
import os
import pwd
import stat
from pathlib import Path

_ROOT_UID = 0
_BY_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def secret_problem(path: Path, status: os.stat_result) -> str | None:
    """Why others than the owner may read or change a secret; None when they can't.

    The owner must be this process's user or root, and the mode u=rw (0600) or less, or u=rw,g=r
    (0640) or less where root owns it (how mounted secrets are).
    """
    mode, owner = stat.S_IMODE(status.st_mode), status.st_uid
    if not stat.S_ISREG(status.st_mode):
        return f"{path} is no regular file"
    if owner not in (os.geteuid(), _ROOT_UID):
        return (
            f"{path} belongs to user {owner}; it must belong to root or to the user that the "
            f"server runs as: chown {os.geteuid()} {path}"
        )
    excess = _BY_OTHERS & ~stat.S_IRGRP if owner == _ROOT_UID else _BY_OTHERS
    if mode & excess:
        return (
            f"{path} has mode {mode:04o}, so others than its owner can reach it; it must be 0600 "
            f"or less (0640 where root owns it): chmod 0600 {path}"
        )
    return None


def writable_by_others(path: Path, within: Path) -> str | None:
    """Why others could have put `path` there or changed it; None when they can't.

    `within` is a folder above it that a cache begins with. From there on everything that exists
    must belong to this process's user or to root and be writable by them alone (a group without
    another member is its user). Above it, a folder that all may write to must be sticky, as /tmp
    is. Raises `OSError` when one of them can't be looked at.
    """
    path, within = path.resolve(), within.resolve()
    for part in (path, *path.parents):
        try:
            status = part.stat()
        except FileNotFoundError:
            continue
        if part.is_relative_to(within):
            if status.st_uid not in (os.geteuid(), _ROOT_UID):
                return f"{part} belongs to user {status.st_uid}, neither root nor this process's"
            by_group = status.st_mode & stat.S_IWGRP and not _has_trusted_members(status.st_gid)
            is_open = bool(by_group or status.st_mode & stat.S_IWOTH)
        else:
            is_open = status.st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH
        if is_open:
            mode = stat.S_IMODE(status.st_mode)
            return f"{part} has mode {mode:04o}, so others can change it (chmod go-w {part})"
    return None


def make_private_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for this process's user alone."""
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    for part in reversed(missing):
        part.mkdir(mode=0o700, exist_ok=True)


def _has_trusted_members(group_id: int) -> bool:
    """Whether a group holds nobody but this process's user, or nobody but root.

    Many systems make such a group for every user, and files writable by it.
    """
    for user_id in (os.geteuid(), _ROOT_UID):
        try:
            user, group = pwd.getpwuid(user_id), grp.getgrgid(group_id)
        except KeyError:
            continue
        if user.pw_gid == group_id and set(group.gr_mem) <= {user.pw_name}:
            return True
    return False

"""Names that must never lead out of a models directory, the same planted as files, and a canary that shows if one did.

`ID_VECTORS` and `FILE_VECTORS` are names that are refused, each with its reason as a key. `PLANTED` are ids that look
harmless and lead to something planted by `plant`. All are used by the tests of names, of the directory and of staging,
and by those that go through a whole host.
"""

from __future__ import annotations

import hashlib
import os
import socket
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

STAGING = ".hostd-staging"

_TRAVERSAL = {
    "parent": "..",
    "parent slash": "../",
    "parent of parent": "../..",
    "deep parents": "../" * 40 + "etc/passwd",
    "sibling": "../outside",
    "sibling file": "../outside/secret",
    "same prefix": "../models2/m",
    "parent after a folder": "a/..",
    "parent after a folder slash": "a/../",
    "through and back": "a/../b",
    "out through a folder": "a/../../outside",
    "out through folders": "a/b/../../../outside",
    "out through dots": "a/./../../outside",
    "parent in the middle": "a/../a/../../outside",
    "parent with empty segments": "..//..//outside",
    "parent and backslash": "..\\outside",
    "parents and backslashes": "..\\..\\outside",
    "mixed separators": "a/..\\..\\outside",
    "mixed the other way": "a\\../../outside",
    "trailing backslash": "a\\",
    "leading backslash": "\\a",
    "backslash in between": "a\\b",
    "double backslash": "\\\\server\\share",
    "drive": "C:\\Windows",
    "drive relative parent": "C:..\\outside",
    "long path prefix": "\\\\?\\C:\\x",
    "parent with nul": "..\0",
    "nul then parent": "a\0/../../outside",
    "parent then nul": "../outside\0.txt",
    "parent newline": "..\n",
    "newline parent": "\n..",
    "parent tab": "a/..\t/b",
}

_ABSOLUTE = {
    "root": "/",
    "two slashes": "//",
    "three slashes": "///",
    "absolute": "/etc/passwd",
    "absolute twice": "//etc/passwd",
    "absolute model": "/m",
    "absolute proc": "/proc/self/root/etc",
    "absolute device": "/dev/null",
    "absolute with parent": "/../etc",
    "absolute dot": "/.",
    "absolute parent": "/..",
}

_EMPTY = {
    "empty": "",
    "space": " ",
    "spaces": "   ",
    "tab": "\t",
    "newline": "\n",
    "carriage return": "\r\n",
    "vertical tab": "\x0b",
    "no-break space alone": "\u00a0",
    "ideographic space alone": "\u3000",
    "em space alone": "\u2003",
    "dot": ".",
    "dot slash": "./",
    "slash dot": "a/.",
    "dots as folders": "././.",
    "dot folder": "./m",
    "dot in between": "a/./b",
    "empty segment": "a//b",
    "empty segments": "a///b",
    "trailing slash": "a/",
    "trailing slashes": "a//",
    "leading slash": "/a",
    "folder and trailing slash": "a/b/",
    "blank segment": "a/ /b",
    "blank last segment": "a/ ",
    "tab segment": "a/\t/b",
}

_TRAILING = {
    "trailing dot": "m.",
    "trailing dots": "m..",
    "three dots": "...",
    "four dots": "....",
    "three dots folder": "a/.../b",
    "trailing dot of a folder": "a./b",
    "trailing space": "m ",
    "trailing spaces": "m   ",
    "trailing space of a folder": "a /b",
    "trailing dot space": "m. ",
    "trailing space dot": "m .",
    "parent space": ".. ",
    "parent space as folder": ".. /outside",
    "parent dot as folder": ".../outside",
    "trailing no-break space": "m\u00a0",
    "trailing ideographic space": "m\u3000",
    "trailing thin space": "m\u2009",
    "trailing tab": "m\t",
    "trailing newline": "m\n",
}

_CONTROL = {f"control {code:#04x}": f"a{chr(code)}b" for code in (*range(32), 0x7F, 0x80, 0x85, 0x9B, 0x9F)}

_INVISIBLE = {
    "zero width space": "a\u200bb",
    "zero width non-joiner": "a\u200cb",
    "zero width joiner": "a\u200db",
    "left-to-right mark": "a\u200eb",
    "right-to-left mark": "a\u200fb",
    "left-to-right override": "a\u202db",
    "right-to-left override": "a\u202egpj.exe",
    "pop directional": "a\u202cb",
    "isolate": "a\u2066b\u2069",
    "word joiner": "a\u2060b",
    "byte order mark": "\ufeffa",
    "soft hyphen": "a\u00adb",
    "line separator": "a\u2028b",
    "paragraph separator": "a\u2029b",
    "parent with zero width": ".\u200b.",
    "parent hidden in a folder": "a/.\u200b./b",
    "slash with joiner": "..\u2060/outside",
    "arabic letter mark": "a\u061cb",
    "tag characters": "a\U000e0041",
    "private use": "a\ue000",
    "private plane": "a\U0010fffd",
    "unassigned": "a\u0378",
    "noncharacter": "a\uffff",
    "last noncharacter": "a\U0010ffff",
    "high surrogate": "a\ud800",
    "low surrogate": "a\udc00",
    "escaped byte": "a\udcff",
    "surrogate pair": "\ud83d\ude00",
    "surrogate slash": "a\udc2fb",
    "annotation": "a\ufff9b\ufffb",
}

_LOOKALIKE = {
    "fraction slash": "..\u2044outside",
    "division slash": "..\u2215outside",
    "big solidus": "..\u29f8outside",
    "full width solidus": "..\uff0foutside",
    "box diagonal": "a\u2571b",
    "box diagonal back": "a\u2572b",
    "kana repeat mark": "a\u3033b",
    "cjk stroke": "a\u31d3b",
    "cjk stroke back": "a\u31d4b",
    "caret insertion point": "a\u2041b",
    "philippine punctuation": "a\u1735b",
    "greek instrumental": "a\U0001d23ab",
    "greek instrumental back": "a\U0001d23bb",
    "greek vocal": "a\U0001d20fb",
    "set minus": "a\u2216b",
    "reverse solidus operator": "a\u29f5b",
    "big reverse solidus": "a\u29f9b",
    "small reverse solidus": "a\ufe68b",
    "full width reverse solidus": "a\uff3cb",
    "combining reverse solidus": "a\u20e5b",
    "account of": "a\u2100b",
    "addressed to the subject": "a\u2101b",
    "care of": "a\u2105b",
    "cada una": "a\u2106b",
    "one dot leaders": "\u2024\u2024",
    "one dot leaders and slash": "\u2024\u2024/outside",
    "two dot leader": "\u2025",
    "two dot leader folder": "\u2025/outside",
    "ellipsis": "\u2026",
    "ellipsis after text": "a\u2026",
    "full width full stops": "\uff0e\uff0e",
    "full width parent": "\uff0e\uff0e/outside",
    "full width all": "\uff0e\uff0e\uff0foutside",
    "small full stops": "\ufe52\ufe52",
    "vertical ellipsis": "\ufe19",
    "vertical two dots": "\ufe30",
    "middle dots": "\u00b7\u00b7",
    "bullet operators": "\u2219\u2219",
    "dot operators": "\u22c5\u22c5",
    "hyphenation points": "\u2027\u2027",
    "katakana middle dots": "a/\u30fb\u30fb/b",
    "lisu tone marks": "\ua4f8\ua4f8",
    "syriac full stops": "\u0701\u0702",
    "digit one full stop": "a\u2488",
    "mixed dots": ".\u2024",
    "dot and middle dot": "a/.\u00b7/b",
    "full width drive": "c\uff1a\uff3cx\uff3c",
}

_LONG = {
    "a long segment": "a" * 256,
    "a long second segment": "a/" + "b" * 256,
    "a long segment in bytes": "\u00e9" * 128 + "a",
    "a long emoji segment": "\U0001f600" * 64,
    "long with folders": "/".join(["a" * 200] * 6),
    "very long": "a" * 100_000,
    "very deep": "a/" * 2000 + "a",
    "very many parents": "../" * 100_000,
    "very many slashes": "/" * 100_000,
    "very many dots": "." * 100_000,
}

_STAGING = {
    "the staging area": STAGING,
    "in the staging area": f"{STAGING}/m",
    "an entry of the staging area": f"{STAGING}/0123456789abcdef.json",
    "a tree of the staging area": f"{STAGING}/0123456789abcdef",
    "out of the staging area": f"{STAGING}/../m",
    "the staging area slash": f"{STAGING}/",
    "the staging area in capitals": STAGING.upper(),
    "the staging area in title case": ".Hostd-Staging",
    "the staging area below a folder": f"a/{STAGING}",
    "the staging area below a folder in capitals": f"a/{STAGING.upper()}/b",
    "the staging area with a dot": f"{STAGING}.",
    "the staging area with a space": f"{STAGING} ",
    "the staging area with a soft hyphen": ".hostd\u00ad-staging",
}

_BOTH = {
    **_TRAVERSAL,
    **_ABSOLUTE,
    **_EMPTY,
    **_TRAILING,
    **_CONTROL,
    **_INVISIBLE,
    **_LOOKALIKE,
    **_LONG,
    **_STAGING,
}

ID_VECTORS = {
    **_BOTH,
    "hidden": ".hidden",
    "hidden below": "a/.hidden",
    "hidden folder": ".git/config",
    "ssh": ".ssh/authorized_keys",
    "leading space": " m",
    "leading space below": "a/ b",
    "leading no-break space": "\u00a0m",
    "inner no-break space": "a\u00a0b",
    "a ligature": "\ufb01le",
    "decomposed": "e\u0301",
    "decomposed hangul": "\u1112\u1161\u11ab",
    "roman numeral": "\u2163",
    "full width letters": "\uff4d\uff4f\uff44\uff45\uff4c",
    "superscript": "m\u00b2",
    "kelvin sign": "\u212a",
    "angstrom sign": "\u212b",
    "long s": "mode\u017f",
    "a segment of 201 bytes": "a" * 201,
    "an id of 513 bytes": "/".join(["a" * 170] * 3)[:512] + "a",
}
"""Strings that are no model ids."""

FILE_VECTORS = {
    **_BOTH,
    "33 folders": "a/" * 32 + "a",
    "a name of 1025 bytes": ("a" * 100 + "/") * 10 + "a" * 15,
}
"""Strings that are no names of a model's file."""

PLANTED = {
    "a link out": "link-out",
    "below a link out": "link-out/inner",
    "a link in": "link-in",
    "below a link in": "link-in/model.yaml",
    "a link to itself": "loop",
    "below a link to itself": "loop/x",
    "a dangling link": "dangling",
    "a link to a file out": "link-file",
    "a link to the root": "link-root",
    "through the root": "link-root/etc/passwd",
    "a link to the models directory": "link-self",
    "through the models directory": "link-self/real",
    "a link in a folder": "folder/link",
    "below a link in a folder": "folder/link/inner",
    "a magic link": "magic",
    "below a magic link": "magic/etc",
    "a fifo": "fifo",
    "a socket": "socket",
    "a fifo in a folder": "folder/fifo",
}
"""Ids that are good names and lead to what `plant` plants: none of them is a model."""

DEVICES = {"a device": "device", "a block device": "block"}
"""The same, if root planted."""


def plant(models: Path, outside: Path) -> dict[str, str]:
    """Fill a models directory with traps around one real model, `real`; return the ids that are none, by what they are."""
    (models / "real").mkdir()
    (models / "real" / "model.yaml").write_text("loader: python\n")
    (outside / "inner").mkdir()
    (outside / "inner" / "secret").write_text("secret")
    (outside / "secret").write_text("secret")
    folder = models / "folder"
    folder.mkdir()
    links = {
        models / "link-out": outside,
        models / "link-in": models / "real",
        models / "loop": "loop",
        models / "dangling": outside / "nothing",
        models / "link-file": outside / "secret",
        models / "link-root": "/",
        models / "link-self": models,
        folder / "link": outside,
        models / "magic": f"/proc/{os.getpid()}/root",
    }
    for link, target in links.items():
        link.symlink_to(target)
    os.mkfifo(models / "fifo")
    os.mkfifo(folder / "fifo")
    _plant_socket(models)
    planted = dict(PLANTED)
    if os.geteuid() == 0:
        os.mknod(models / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(models / "block", 0o600 | stat.S_IFBLK, os.makedev(7, 0))
        planted.update(DEVICES)
    return planted


def _plant_socket(models: Path) -> None:
    # By way of a directory's descriptor: a socket's path may have 107 bytes, and pytest's are long.
    fd = os.open(models, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"/proc/self/fd/{fd}/socket")
    finally:
        os.close(fd)


def canary(root: Path) -> str:
    """Return a hash of everything below a directory: names, kinds, modes, links and contents. It follows no link."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")) if root.is_dir() else []:
        found = path.lstat()
        content = b""
        if stat.S_ISLNK(found.st_mode):
            content = os.fsencode(os.readlink(path))
        elif stat.S_ISREG(found.st_mode):
            content = path.read_bytes()
        record = (os.fsencode(path.relative_to(root)), oct(found.st_mode).encode(), b"%d" % len(content), content)
        digest.update(b"\0".join(record) + b"\0")
    return digest.hexdigest()

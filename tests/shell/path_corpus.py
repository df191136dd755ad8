"""Names that must never lead out of a models directory, the same planted as files, and a canary that shows if one did.

`ID_VECTORS` and `FILE_VECTORS` are names that are refused, each with its reason as a key. `PLANTED` are ids that look
harmless and lead to something planted by `plant`. All are used by the tests of names, of the directory and of staging,
and by those that go through a whole host.
"""

import hashlib
import os
import socket
import stat

STAGING = ".hostd-staging"


def _each(what, template, characters):
    """Return a vector for each of these characters, called by its number."""
    return {f"{what} {ord(each):#06x}": template.format(each) for each in characters}


def _shown(what, *vectors):
    """Return vectors that are short enough to be their own names."""
    return {f"{what} {vector!r}": vector for vector in vectors}


_TRAVERSAL = _shown(
    "parent",
    *("..", "../", "../..", "../" * 40 + "etc/passwd", "../outside", "../outside/secret", "../models2/m"),
    *("a/..", "a/../", "a/../b", "a/../../outside", "a/b/../../../outside", "a/./../../outside"),
    *("a/../a/../../outside", "..//..//outside", "..\\outside", "..\\..\\outside", "a/..\\..\\outside"),
    *("a\\../../outside", "a\\", "\\a", "a\\b", "\\\\server\\share", "C:\\Windows", "C:..\\outside", "\\\\?\\C:\\x"),
    *("..\0", "a\0/../../outside", "../outside\0.txt", "..\n", "\n..", "a/..\t/b"),
)
_ABSOLUTE = _shown(
    "absolute",
    *(
        "/",
        "//",
        "///",
        "/etc/passwd",
        "//etc/passwd",
        "/m",
        "/proc/self/root/etc",
        "/dev/null",
        "/../etc",
        "/.",
        "/..",
    ),
)
_EMPTY = _shown(
    "empty",
    *("", " ", "   ", "\t", "\n", "\r\n", "\x0b", "\u00a0", "\u3000", "\u2003", ".", "./", "a/.", "././.", "./m"),
    *("a/./b", "a//b", "a///b", "a/", "a//", "/a", "a/b/", "a/ /b", "a/ ", "a/\t/b"),
)
_TRAILING = _shown(
    "trailing",
    *("m.", "m..", "...", "....", "a/.../b", "a./b", "m ", "m   ", "a /b", "m. ", "m .", ".. ", ".. /outside"),
    *(".../outside", "m\u00a0", "m\u3000", "m\u2009", "m\t", "m\n"),
)
_CONTROL = _each("control", "a{}b", map(chr, (*range(32), 0x7F, 0x80, 0x85, 0x9B, 0x9F)))
_INVISIBLE = {
    **_each("invisible", "a{}b", "\u200b\u200c\u200d\u200e\u200f\u202d\u202c\u2060\u00ad\u2028\u2029\u061c"),
    **_each("no character", "a{}", "\U000e0041\ue000\U0010fffd\u0378\uffff\U0010ffff\ud800\udc00\udcff"),
    **_shown("hidden", "a\u202egpj.exe", "a\u2066b\u2069", "\ufeffa", ".\u200b.", "a/.\u200b./b", "..\u2060/outside"),
    **_shown("hidden", "\ud83d\ude00", "a\udc2fb", "a\ufff9b\ufffb"),
}
_LOOKALIKE = {
    **_each("like a slash", "..{}outside", "\u2044\u2215\u29f8\uff0f"),
    **_each(
        "like a slash", "a{}b", "\u2571\u2572\u3033\u31d3\u31d4\u2041\u1735\U0001d23a\U0001d23b\U0001d20f\u2216\u29f5"
    ),
    **_each("like a slash", "a{}b", "\u29f9\ufe68\uff3c\u20e5\u2100\u2101\u2105\u2106"),
    **_each("like dots", "{0}{0}", "\u2024\uff0e\ufe52\u00b7\u2219\u22c5\u2027\ua4f8"),
    **_each("like dots", "{}", "\u2025\u2026\ufe19\ufe30"),
    **_shown("like dots", "\u2024\u2024/outside", "\u2025/outside", "a\u2026", "\uff0e\uff0e/outside"),
    **_shown("like dots", "\uff0e\uff0e\uff0foutside", "a/\u30fb\u30fb/b", "\u0701\u0702", "a\u2488", ".\u2024"),
    **_shown("like a drive or dots", "a/.\u00b7/b", "c\uff1a\uff3cx\uff3c"),
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
_STAGING = _shown(
    "staging area",
    *(STAGING, f"{STAGING}/m", f"{STAGING}/0123456789abcdef.json", f"{STAGING}/0123456789abcdef", f"{STAGING}/../m"),
    *(f"{STAGING}/", STAGING.upper(), ".Hostd-Staging", f"a/{STAGING}", f"a/{STAGING.upper()}/b", f"{STAGING}."),
    *(f"{STAGING} ", ".hostd\u00ad-staging"),
)
_BOTH = _TRAVERSAL | _ABSOLUTE | _EMPTY | _TRAILING | _CONTROL | _INVISIBLE | _LOOKALIKE | _LONG | _STAGING

ID_VECTORS = {
    **_BOTH,
    **_shown("hidden", ".hidden", "a/.hidden", ".git/config", ".ssh/authorized_keys"),
    **_shown("leading", " m", "a/ b", "\u00a0m", "a\u00a0b"),
    **_shown("not normal", "\ufb01le", "e\u0301", "\u1112\u1161\u11ab", "\u2163", "\uff4d\uff4f\uff44\uff45\uff4c"),
    **_shown("not normal", "m\u00b2", "\u212a", "\u212b", "mode\u017f"),
    "a segment of 201 bytes": "a" * 201,
    "an id of 513 bytes": "/".join(["a" * 170] * 3)[:512] + "a",
}
"""Strings that are no model ids."""

FILE_VECTORS = {**_BOTH, "33 folders": "a/" * 32 + "a", "a name of 1025 bytes": ("a" * 100 + "/") * 10 + "a" * 15}
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


def plant(models, outside):
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


def _plant_socket(models):
    # By way of a directory's descriptor: a socket's path may have 107 bytes, and pytest's are long.
    fd = os.open(models, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"/proc/self/fd/{fd}/socket")
    finally:
        os.close(fd)


def canary(root):
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

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A hostile client of `ferry agent --files`: lazyfs-client.py FERRY DIR

DIR has "in" (may be served, and is as hostile as its owner could make it) and "out" (may not). Prints
what got through that should not have, and nothing if all is well.
"""
import errno
import os
import shutil
import socket
import struct
import subprocess
import sys

FERRY, DIR = sys.argv[1:3]
IN = DIR + "/in"
HELLO, READY, REFUSED = 256, 257, 258
STAT, LIST, READLINK, XATTRS, READ, SEEK, DIGEST, WRITE, RESIZE, SETTLE, CREATE, REMOVE, RENAME, SET, XATTR = range(264, 279)
SET_MODE, SET_UID, SET_GID = 1, 2, 4
FAILED, ATTR, ENTRIES, TARGET, XATTR_LIST, DATA, POSITION = range(280, 287)
FOLDER = 288
FOLDERS, ONLY_BELOW = 1, 2
SECRET = b"secret"


def text(s):
    s = s.encode()
    return struct.pack("<H", len(s)) + s


class Agent:
    """One session, with the rights and paths that are said."""

    def __init__(self, exports, uid=0, gid=0, reads_all=True, root="/", groups=(), version=2,
                 options=(), writes_all=False, owns_all=False):
        self.p = subprocess.Popen([FERRY, "agent", "--files", *options], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        body = b"ferryfs\n" + struct.pack("<I", version) + (b"12345678" if version > 2 else b"") + text(root) + struct.pack("<I", len(exports))
        for path, whole in exports:
            body += struct.pack("<I", whole) + text(path)
        body += struct.pack("<IIIII", 1, uid, gid, reads_all | writes_all << 1 | owns_all << 2, len(groups))
        body += b"".join(struct.pack("<I", g) for g in groups)
        self.send(HELLO, body)
        self.hello = self.receive()

    def send(self, kind, body):
        try:
            self.p.stdin.write(struct.pack("<IHH", len(body), kind, 0) + body)
            self.p.stdin.flush()
        except BrokenPipeError:
            pass

    def receive(self):
        head = self.p.stdout.read(8)
        if len(head) < 8:
            return None, b""
        length, kind, _ = struct.unpack("<IHH", head)
        return kind, self.p.stdout.read(length)

    def ask(self, kind, path, offset=0, length=0, ident=bytes(40)):
        self.send(kind, struct.pack("<QQI", 1, offset, length) + ident + text(path))
        return self.receive()

    def folders(self, path, below=0, flags=FOLDERS):
        """The directory and what is below it: {path: {name: target}}, in order; an errno if it is refused."""
        out = {}
        kind, body = self.ask(LIST, path, below, flags)
        while kind == FOLDER:
            more, _, n = struct.unpack("<IIH", body[8:18])
            folder, at = body[18:18 + n].decode(), 18 + n + 4
            names = out.setdefault(folder, {})
            for _ in range(struct.unpack("<I", body[at - 4:at])[0]):
                at += 80
                pair = []
                for _ in range(2):
                    n = struct.unpack("<H", body[at:at + 2])[0]
                    pair.append(body[at + 2:at + 2 + n].decode())
                    at += 2 + n
                names[pair[0]] = pair[1]
            if not more:
                return out
            kind, body = self.receive()
        return struct.unpack("<I", body[8:])[0] if kind == FAILED else None

    def change(self, kind, path, other="", ident=None, offset=0, data=b"", mode=0o100644, flags=0, replaced=bytes(40), what=0):
        """None if it was done, else the errno; "closed" if the session ended."""
        ident = ident or (kind != CREATE and self.stat(path)) or bytes(40)
        self.send(kind, struct.pack("<QQI", 1, offset, what or len(data)) + ident + text(path) +
                  struct.pack("<IIq", flags, mode, 0) + text(other) + replaced + data)
        kind, body = self.receive()
        return None if kind == ATTR else struct.unpack("<I", body[8:])[0] if kind == FAILED else "closed"

    def stat(self, path):
        kind, body = self.ask(STAT, path)
        return body[8:48] if kind == ATTR else None

    def read(self, path, ident=None):
        """What the file's first bytes are; None if they are refused."""
        kind, body = self.ask(READ, path, 0, 4096, ident or self.stat(path) or bytes(40))
        if kind != DATA:
            return None
        n = struct.unpack("<I", body[24:28])[0]
        return body[28 + 8 * n:]

    def end(self):
        self.p.stdin.close()
        self.p.stdout.close()
        return self.p.wait(timeout=10)


problems = []


def check(condition, what):
    if not condition:
        problems.append(what)


def make():
    os.makedirs(IN + "/open", exist_ok=True)
    os.makedirs(DIR + "/out", exist_ok=True)
    for name in ["in/open/plain", "in/private", "out/secret"]:
        with open(f"{DIR}/{name}", "wb") as f:
            f.write(SECRET if name != "in/open/plain" else b"plain")
    os.chmod(DIR, 0o755)
    os.chmod(IN + "/private", 0o600)
    os.symlink(DIR + "/out/secret", IN + "/file-link")
    os.symlink(DIR + "/out", IN + "/dir-link")
    os.symlink("../out", IN + "/up-link")
    os.symlink("/proc/self/root", IN + "/magic-link")
    os.mkfifo(IN + "/fifo")
    os.mknod(IN + "/device", 0o666 | 0o020000, os.makedev(1, 5))
    s = socket.socket(socket.AF_UNIX)
    s.bind(IN + "/socket")
    with open(IN + "/hole", "wb") as f:
        f.truncate(1 << 20)


def paths_do_not_escape():
    a = Agent([(IN, True)])
    check(a.hello[0] == READY, f"not ready: {a.hello}")
    check(a.read(IN + "/open/plain") == b"plain", "what may be read cannot be")
    for path in ["/file-link", "/dir-link/secret", "/up-link/secret", "/magic-link" + DIR + "/out/secret"]:
        check(a.read(IN + path) is None, f"reads through {path}")
        check(a.ask(LIST, os.path.dirname(IN + path))[0] in (ENTRIES, FAILED), "listing breaks the session")
    # attributes of the link are fine, those of its target are not
    check(a.stat(IN + "/dir-link/secret") is None, "attributes through a link")
    check(a.ask(LIST, IN + "/dir-link")[0] == FAILED, "lists through a link")
    kind, body = a.ask(READLINK, IN + "/up-link")
    check(kind == TARGET and body[8:] == b"../out", "a link itself cannot be read")
    for path in ["/", DIR, DIR + "/out", DIR + "/out/secret", "/etc/passwd", "/proc/self/environ", IN + "x"]:
        check(a.read(path) is None, f"reads {path}")
        kind, body = a.ask(LIST, path)
        check(kind == FAILED or b"secret" not in body and b"passwd" not in body, f"lists {path}")
    check(a.end() == 0, "does not end well")


def odd_paths_end_the_session():
    for path in [IN + "/../out/secret", IN + "/./open", IN + "//open", "etc", "", IN + "/open/", "/" + "a" * 300]:
        a = Agent([(IN, True)])
        check(a.ask(STAT, path)[0] is None, f"answers for {path[:40]!r}")
        check(a.end() != 0, f"ends well after {path[:40]!r}")


def specials_are_not_opened():
    a = Agent([(IN, True)])
    for name in ["fifo", "device", "socket", "open"]:
        check(a.stat(f"{IN}/{name}"), f"{name} has no attributes")
        check(a.read(f"{IN}/{name}") is None, f"reads {name}")
    a.end()
    for path in ["/proc", "/sys", "/dev"]:
        a = Agent([(path, True)])
        check(a.read("/proc/self/environ") is None, "reads /proc")
        check(a.read("/dev/zero") is None, "reads a device")
        check(a.read("/sys/kernel/notes") is None, "reads /sys")
        a.end()


def rights_are_those_of_the_tree():
    a = Agent([(IN, True)], uid=65534, gid=65534, reads_all=False)
    check(a.read(IN + "/open/plain") == b"plain", "a file for all is not for nobody")
    check(a.stat(IN + "/private"), "attributes need no right to read")
    check(a.read(IN + "/private") is None, "nobody reads root's file")
    a.end()
    a = Agent([(IN, True)], uid=65534, gid=65534, reads_all=True)
    check(a.read(IN + "/private") == SECRET, "CAP_DAC_READ_SEARCH does not count")
    a.end()
    a = Agent([(IN, True)], uid=0, gid=0, reads_all=False)
    os.chmod(IN + "/private", 0o000)
    check(a.read(IN + "/private") is None, "root without capabilities reads everything")
    os.chmod(IN + "/private", 0o600)
    check(a.read(IN + "/private") == SECRET, "an owner does not read")
    a.end()


def only_what_is_named():
    a = Agent([(IN + "/open/plain", False)])
    check(a.read(IN + "/open/plain") == b"plain", "a named file cannot be read")
    check(a.read(IN + "/private") is None, "reads beside what is named")
    kind, body = a.ask(LIST, IN)
    check(kind == ENTRIES and b"open" in body and b"private" not in body, "lists more than what is named")
    a.end()


def identity_counts():
    a = Agent([(IN, True)])
    ident = a.stat(IN + "/hole")
    kind, body = a.ask(READ, IN + "/hole", 0, 4096, ident)
    check(kind == DATA and struct.unpack("<QQI", body[8:28]) == (0, 1 << 20, 0), "a hole is not told as one")
    for i in range(5):
        wrong = bytearray(ident)
        wrong[8 * i] ^= 1
        kind, body = a.ask(READ, IN + "/hole", 0, 4096, bytes(wrong))
        check(kind == FAILED and struct.unpack("<I", body[8:])[0] in (errno.ESTALE, errno.EINVAL),
              f"reads in spite of another identity ({i})")
    os.utime(IN + "/hole")
    check(a.ask(READ, IN + "/hole", 0, 4096, ident)[0] == FAILED, "does not see that it was touched")
    a.end()


def folders_are_within_the_rules():
    """What comes along with a list is what could be listed by itself, and no more than was asked for."""
    for i in range(40):
        os.makedirs(f"{IN}/tree/{i:02}/deep")
        open(f"{IN}/tree/{i:02}/deep/name", "w").close()
    os.makedirs(IN + "/tree/shut/below")
    open(IN + "/tree/shut/secret", "w").close()
    os.chmod(IN + "/tree/shut", 0o711)
    os.symlink("../out", IN + "/tree/up")
    os.makedirs(IN + "/tree/wide")
    for i in range(1000):
        open(f"{IN}/tree/wide/{i:04}", "w").close()
    # 0o711: to be searched, but not to be listed
    rights = dict(uid=65534, gid=65534, reads_all=False)
    a = Agent([(IN + "/tree", True)], **rights)
    one = a.folders(IN + "/tree")
    check(list(one) == [IN + "/tree"] and len(one[IN + "/tree"]) == 43, f"one directory is {list(one)}")
    check(one[IN + "/tree"]["up"] == "../out" and one[IN + "/tree"]["00"] == "", "what a link holds")
    all_of_it = a.folders(IN + "/tree", 1 << 20)
    check(list(all_of_it)[0] == IN + "/tree", "the directory itself is not the first")
    check(len(all_of_it) == 1 + 40 + 40, f"{len(all_of_it)} directories, not those that may be listed and are small")
    check(all_of_it[IN + "/tree/07/deep"] == {"name": ""}, "what is below it")
    check(not any(p.startswith(DIR + "/out") or p.startswith(IN + "/tree/shut") or p.startswith(IN + "/tree/wide")
                  for p in all_of_it), "a directory that nobody may list, or a large one, or through a link")
    some = a.folders(IN + "/tree", 2000)
    check(1 < len(some) < 30, f"{len(some)} directories in 2000 bytes")
    below = a.folders(IN + "/tree", 1 << 20, FOLDERS | ONLY_BELOW)
    check(IN + "/tree/07" in below and not below[IN + "/tree"], "only below")
    for i in range(300):
        os.makedirs(f"{IN}/tree/empty/{i}", exist_ok=True)
    check(1 < len(a.folders(IN + "/tree/empty", 3200)) < 100, "directories that have nothing cost nothing")
    shutil.rmtree(IN + "/tree/empty")
    check(a.folders(IN + "/tree/shut", 1 << 20) == errno.EACCES, "lists without the right to")
    check(a.folders(IN + "/tree/none", 1 << 20) == errno.ENOENT, "lists what is not there")
    check(a.folders(DIR + "/out", 1 << 20) == errno.EACCES, "lists what is outside")
    check(a.ask(LIST, IN + "/tree/00")[0] == ENTRIES, "an older client is not answered as before")
    check(a.end() == 0, "does not end well")
    # on the way to what is named nothing else comes
    a = Agent([(IN + "/tree/07/deep", True)], **rights)
    way = a.folders(IN, 1 << 20)
    check(list(way) == [IN] and list(way[IN]) == ["tree"], f"on the way: {way}")
    check(set(a.folders(IN + "/tree/07", 1 << 20)) == {IN + "/tree/07", IN + "/tree/07/deep"}, "not what is named")
    a.end()
    # more questions than are kept for later are all answered to the end
    a = Agent([(IN + "/tree", True)], **rights)
    for i in range(30):
        a.send(LIST, struct.pack("<QQI", i, 1 << 20, FOLDERS) + bytes(40) + text(IN + "/tree"))
    ends = set()
    while len(ends) < 30:
        kind, body = a.receive()
        if kind != FOLDER:
            break
        if not struct.unpack("<I", body[8:12])[0]:
            ends.add(body[:8])
    check(len(ends) == 30, f"{len(ends)} of 30 questions have an end")
    check(a.end() == 0, "does not end well after many")


CHANGES = [(WRITE, "/open/plain", {"data": b"x"}), (RESIZE, "/open/plain", {}), (SETTLE, "/open/plain", {}),
           (CREATE, "/open/made", {}), (REMOVE, "/open/plain", {}), (RENAME, "/open/plain", {"other": IN + "/open/b"}),
           (SET, "/open/plain", {"what": SET_MODE, "mode": 0o600}),
           (XATTR, "/open/plain", {"other": "user.test", "mode": 0, "data": b"v"})]
# of those that a file is named by
OF_A_FILE = {kind: more for kind, _, more in CHANGES if kind not in (CREATE, REMOVE, RENAME)}


def look():
    """All that there is, as it is."""
    out = {}
    for top, dirs, files in os.walk(DIR):
        for name in dirs + files:
            st = os.lstat(top + "/" + name)
            content = open(top + "/" + name, "rb").read() if st.st_mode & 0o170000 == 0o100000 else b""
            out[top + "/" + name] = (st.st_mode, st.st_ino, st.st_uid, st.st_mtime_ns, content,
                                     os.listxattr(top + "/" + name, follow_symlinks=False))
    return out


def nothing_is_changed_without_leave():
    before = look()
    # one that asks for it, and one that does not ask
    a = Agent([(IN, True)], version=3)
    check(a.hello[0] == REFUSED and b"read-only" in a.hello[1], f"a client may write: {a.hello}")
    a.end()
    for options in [(), ("--writeback",)]:
        a = Agent([(IN, True)], options=options)
        check(a.hello[0] == READY, "does not serve")
        for kind, path, more in CHANGES:
            check(a.change(kind, IN + path, **more) == errno.EROFS, f"change {kind} without leave {options}")
        a.end()
    check(look() == before, "something was changed without leave")


def changes_stay_inside():
    a = Agent([(IN, True)], version=3, options=("--writeback",), writes_all=True)
    check(a.hello[0] == READY, f"a client may not write: {a.hello}")
    before = look()
    for path in ["/file-link", "/dir-link/secret", "/up-link/secret", "/magic-link" + DIR + "/out/secret"]:
        for kind, more in OF_A_FILE.items():
            check(a.change(kind, IN + path, **more) not in (None, "closed"), f"change {kind} through {path}")
    for path in ["/dir-link/new", "/up-link/new", "/magic-link/tmp/ferry-new"]:
        check(a.change(CREATE, IN + path) not in (None, "closed"), f"makes {path}")
        check(a.change(RENAME, IN + "/open/plain", IN + path) not in (None, "closed"), f"renames to {path}")
        check(a.change(CREATE, IN + path, "x", mode=0o120777) not in (None, "closed"), f"links {path}")
    for path in [DIR + "/out/secret", DIR + "/new", "/etc/passwd", "/ferry-new", IN, "/"]:
        for kind in [WRITE, RESIZE, CREATE, REMOVE]:
            check(a.change(kind, path, data=b"x" if kind == WRITE else b"") not in (None, "closed"),
                  f"change {kind} of {path}")
        for kind in [SET, XATTR] if path != IN else []:
            check(a.change(kind, path, **OF_A_FILE[kind]) not in (None, "closed"), f"change {kind} of {path}")
        if path != "/":
            check(a.change(RENAME, IN + "/open/plain", path) not in (None, "closed"), f"renames to {path}")
            check(a.change(RENAME, path, IN + "/open/b") not in (None, "closed"), f"renames {path}")
    for name in ["fifo", "device", "socket", "open"]:
        check(a.change(WRITE, f"{IN}/{name}", data=b"x") not in (None, "closed"), f"writes to {name}")
    check(a.change(REMOVE, IN + "/open") == errno.ENOTEMPTY, "removes a directory that is not empty")
    check(look() == before, "something outside was changed")
    a.end()
    for kind, other, mode in [(CREATE, "", 0o020666), (CREATE, "", 0o010666), (RENAME, IN + "/../out/x", 0)]:
        a = Agent([(IN, True)], version=3, options=("--writeback",))
        check(a.change(kind, IN + "/open/new", other, mode=mode) == "closed", f"takes {kind} {other} {mode:o}")
        a.end()
    check(look() == before, "something special was made")
    # a file that is named alone: its contents, and not its name
    a = Agent([(IN + "/open/plain", False)], version=3, options=("--writeback",))
    check(a.change(REMOVE, IN + "/open/plain") == errno.EACCES, "removes what is named alone")
    check(a.change(CREATE, IN + "/open/new") == errno.EACCES, "makes something beside it")
    a.end()
    check(look() == before, "names beside a file were changed")


def owners_and_modes(a, path):
    """The file is the one of a tree without privileges."""
    check(a.change(SET, path, mode=0o6711, what=SET_MODE) is None, "cannot change a mode")
    check(os.stat(path).st_mode & 0o7777 == 0o711, "gives the rights of others away")
    os.chmod(path, 0o4711)
    check(a.change(SET, path, mode=0o4755, what=SET_MODE) is None and os.stat(path).st_mode & 0o7777 == 0o4755,
          "takes a bit off that was not to go")
    check(a.change(SET, path, mode=0o644, what=SET_MODE) is None and os.stat(path).st_mode & 0o7777 == 0o644,
          "leaves a bit")
    check(a.change(SET, path, what=SET_UID, mode=0) == errno.EPERM, "gives a file to root")
    check(a.change(SET, path, what=SET_GID, mode=0) == errno.EPERM, "gives a file to root's group")
    check(a.change(XATTR, path, "user.test", mode=0, data=b"v") is None and
          os.getxattr(path, "user.test") == b"v", "cannot set an attribute")
    check(a.change(XATTR, path, "user.test", mode=1) is None and "user.test" not in os.listxattr(path),
          "cannot remove it")


def changes_need_rights_and_identity():
    before = look()
    a = Agent([(IN, True)], uid=65534, gid=65534, reads_all=True, version=3, options=("--writeback",))
    for kind, path, more in CHANGES:
        check(a.change(kind, IN + path, **more) in (errno.EACCES, errno.EPERM), f"nobody may {kind}")
    a.end()
    a = Agent([(IN, True)], version=3, options=("--writeback",))
    for kind, path, more in CHANGES:
        for i in range(5) if kind != CREATE else []:
            for flags in [0, 1]:
                wrong = bytearray(a.stat(IN + path))
                wrong[8 * i] ^= 1
                check(a.change(kind, IN + path, ident=bytes(wrong), flags=flags, **more) in (errno.ESTALE, errno.ENOENT),
                      f"change {kind} of another file ({i})")
    check(a.change(RENAME, IN + "/open/plain", IN + "/hole") == errno.EEXIST, "replaces what it does not know")
    check(look() == before, "something was changed without a right to it")
    # and what is allowed is done, with the tree's rights
    a.end()
    os.chmod(IN + "/open", 0o777)
    a = Agent([(IN, True)], uid=65534, gid=65534, reads_all=False, version=3, options=("--writeback",))
    check(a.change(CREATE, IN + "/open/made", mode=0o106755) is None, "cannot make a file")
    st = os.stat(IN + "/open/made")
    check((st.st_uid, st.st_mode) == (65534, 0o100755), f"a file of {st.st_uid}, {st.st_mode:o}")
    check(a.change(WRITE, IN + "/open/made", data=b"text") is None, "cannot write")
    check(a.change(RENAME, IN + "/open/made", IN + "/open/moved") is None, "cannot rename")
    check(open(IN + "/open/moved").read() == "text", "is not what was written")
    owners_and_modes(a, IN + "/open/moved")
    check(a.change(REMOVE, IN + "/open/moved") is None, "cannot remove")
    a.end()
    for name in ["user.ferry.writing", "security.capability", "trusted.x", "user.", ""]:
        a = Agent([(IN, True)], version=3, options=("--writeback",))
        check(a.change(XATTR, IN + "/open/plain", name, mode=0, data=b"v") == "closed", f"sets {name}")
        a.end()
    a = Agent([(IN, True)], uid=0, version=4, options=("--writeback",), owns_all=True)
    before = os.stat(IN + "/private")
    check(a.change(SET, IN + "/private", mode=0o640, what=SET_MODE | SET_UID | SET_GID,
                   replaced=struct.pack("<QQ", 5, 6) + bytes(24)) is None, "the owner of a file cannot be changed")
    st = os.stat(IN + "/private")
    check((st.st_uid, st.st_gid, st.st_mode & 0o7777) == (5, 6, 0o640), "another owner")
    os.chmod(IN + "/private", 0o4755)
    check(a.change(SET, IN + "/private", mode=0o4755, what=SET_MODE | SET_UID,
                   replaced=struct.pack("<QQ", 0, 0) + bytes(24)) is None, "the owner cannot be changed again")
    st = os.stat(IN + "/private")
    check((st.st_uid, st.st_mode & 0o7777) == (0, 0o755), "the new owner's rights are given away")
    os.chown(IN + "/private", before.st_uid, before.st_gid)
    os.chmod(IN + "/private", before.st_mode & 0o7777)
    a.end()


def rubbish_is_refused():
    for frame in [b"GET / HTTP/1.0\r\n\r\n", b"\xff" * 64, struct.pack("<IHH", 1 << 30, HELLO, 0)]:
        p = subprocess.run([FERRY, "agent", "--files"], input=frame, capture_output=True, timeout=10)
        check(p.returncode == 1, f"accepts {frame[:10]!r}")
    a = Agent([("/../x", True)])
    check(a.hello[0] != READY, "accepts a path with ..")
    a.end()
    before = len(os.listdir(DIR + "/out"))
    check(before == 1, "something was made")


make()
for test in [paths_do_not_escape, odd_paths_end_the_session, specials_are_not_opened,
             rights_are_those_of_the_tree, only_what_is_named, identity_counts, folders_are_within_the_rules,
             nothing_is_changed_without_leave, changes_stay_inside, changes_need_rights_and_identity,
             rubbish_is_refused]:
    try:
        test()
    except Exception as e:  # noqa: BLE001: one line is wanted, whatever it is
        problems.append(f"{test.__name__}: {e!r}")
print("; ".join(problems))

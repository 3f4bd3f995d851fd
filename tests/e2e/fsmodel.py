#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Does the same random operations in two directories, and stops where the results differ.

    fsmodel.py TESTED MODEL SEED OPERATIONS [check|writeback]

TESTED is below the file system in question, MODEL a copy of the same tree on a trusted one. With
"check" as the last word nothing is done but a full comparison; with "writeback" nothing that does not go
home. Prints "same" at the end.
"""
import errno
import mmap
import os
import random
import stat
import sys

FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 1, 2, 16
NAMES = ["a", "b", "c", "log", "data", "sub", "deep", "x.tmp", "n" * 200, "hard", "link"]
MAX_SIZE = 3 << 20

libc = __import__("ctypes").CDLL(None, use_errno=True)


def fallocate(fd, mode, offset, length):
    import ctypes
    if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) < 0:
        raise OSError(ctypes.get_errno(), "fallocate")


class Side:
    """One of the two trees, and what is open in it."""

    def __init__(self, root):
        self.root = root
        self.fds = {}

    def path(self, name):
        return os.path.join(self.root, name) if name else self.root


def walk(side):
    """Everything that a program can see, as plain values."""
    out = {}
    for top, dirs, files in os.walk(side.root):
        dirs.sort()
        for name in dirs + files + ([""] if top == side.root else []):
            full = os.path.join(top, name) if name else top
            key = os.path.relpath(full, side.root)
            st = os.lstat(full)
            value = [stat.S_IFMT(st.st_mode), st.st_mode & 0o7777, st.st_uid, st.st_gid]
            if stat.S_ISREG(st.st_mode):
                with open(full, "rb") as f:
                    value += [st.st_size, st.st_nlink, f.read()]
            elif stat.S_ISLNK(st.st_mode):
                value += [os.readlink(full)]
            if not stat.S_ISLNK(st.st_mode):
                value += [sorted((x, os.getxattr(full, x)) for x in os.listxattr(full)
                                 if x.startswith("user.test"))]
            out[key] = value
    return out


def compare(a, b, where):
    left, right = walk(a), walk(b)
    if left == right:
        return
    for key in sorted(set(left) | set(right)):
        if left.get(key) != right.get(key):
            x, y = left.get(key), right.get(key)
            detail = ""
            if x and y and len(x) > 6 and len(y) > 6 and x[6] != y[6]:
                n = next((i for i, (p, q) in enumerate(zip(x[6], y[6])) if p != q), -1)
                detail = f", first difference at byte {n}"
            short = [[i if not isinstance(i, bytes) else f"{len(i)} bytes" for i in v or ["none"]]
                     for v in (x, y)]
            sys.exit(f"{where}: {key}: {short[0]} instead of {short[1]}{detail}")


class Model:
    def __init__(self, a, b, seed, writeback):
        self.writeback = writeback
        self.sides = (Side(a), Side(b))
        self.r = random.Random(seed)
        self.history = []
        self.next = 0

    def both(self, what, action):
        """Runs the action on both sides: same result, or same error."""
        results = []
        self.history.append(what)
        for side in self.sides:
            try:
                results.append(action(side))
            except OSError as e:
                results.append("error " + errno.errorcode.get(e.errno, str(e.errno)))
        if results[0] != results[1]:
            got = [x if len(repr(x)) < 200 else repr(x)[:200] for x in results]
            if isinstance(results[0], bytes) and isinstance(results[1], bytes):
                n = next((i for i, (p, q) in enumerate(zip(*results)) if p != q), -1)
                got.append(f"first difference at {n}, lengths {len(results[0])} {len(results[1])}")
            sys.exit("differs: " + what + f": {got}\nbefore:\n" + "\n".join(self.history[-25:]))
        return results[0]

    def some_path(self):
        depth = self.r.choice([1, 1, 2, 2, 3])
        return "/".join(self.r.choice(NAMES) for _ in range(depth))

    def some_file(self):
        if self.r.random() < 0.25:
            return self.some_path()
        found = []
        for top, _, files in os.walk(self.sides[1].root):
            found += [os.path.relpath(os.path.join(top, f), self.sides[1].root) for f in files]
        return self.r.choice(sorted(found)) if found else self.some_path()

    def some_range(self):
        at = self.r.choice([self.r.randrange(MAX_SIZE), self.r.randrange(MAX_SIZE) & ~4095,
                            self.r.randrange(20000)])
        n = self.r.choice([1, 10, 4095, 4096, 4097, 8192, self.r.randrange(1, 70000)])
        return at, n

    # --- operations; each is a pair of a description and a function of a side

    def op_open(self):
        name, fd = self.some_file(), self.next
        flags = self.r.choice([os.O_RDONLY, os.O_RDWR, os.O_RDWR, os.O_RDWR | os.O_CREAT,
                               os.O_RDWR | os.O_CREAT | os.O_EXCL, os.O_RDWR | os.O_TRUNC,
                               os.O_RDWR | os.O_APPEND])
        self.next += 1

        def action(side):
            side.fds[fd] = os.open(side.path(name), flags, 0o644)
        if self.both(f"open {name} {flags:#o} as {fd}", action) is not None:
            for side in self.sides:
                side.fds.pop(fd, None)
        if len(self.sides[0].fds) > 12:
            self.op_close()

    def fd(self):
        return self.r.choice(sorted(self.sides[0].fds)) if self.sides[0].fds else None

    def op_close(self):
        fd = self.fd()
        if fd is not None:
            self.both(f"close {fd}", lambda s: os.close(s.fds.pop(fd)))

    def with_fd(self, what, action):
        fd = self.fd()
        if fd is not None:
            self.both(f"{what} of {fd}", lambda s: action(s.fds[fd]))

    def op_pread(self):
        at, n = self.some_range()
        self.with_fd(f"pread {n} at {at}", lambda fd: os.pread(fd, n, at))

    def op_pwrite(self):
        at, n = self.some_range()
        data = self.r.randbytes(n)
        self.with_fd(f"pwrite {n} at {at}", lambda fd: os.pwrite(fd, data, at))

    def op_write(self):
        data = self.r.randbytes(self.r.randrange(1, 9000))
        self.with_fd(f"write {len(data)}", lambda fd: os.write(fd, data))

    def op_ftruncate(self):
        size = self.r.choice([0, self.r.randrange(MAX_SIZE), self.r.randrange(10000), 4096])
        self.with_fd(f"ftruncate {size}", lambda fd: os.ftruncate(fd, size))

    def op_fstat(self):
        self.with_fd("fstat", lambda fd: (os.fstat(fd).st_mode, stat.S_ISREG(os.fstat(fd).st_mode) and
                                       (os.fstat(fd).st_size, os.fstat(fd).st_nlink)))

    def op_fsync(self):
        self.with_fd("fsync", os.fsync)

    def op_punch(self):
        at, n = self.some_range()
        mode = self.r.choice([FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, FALLOC_ZERO_RANGE,
                              FALLOC_KEEP_SIZE, 0])
        self.with_fd(f"fallocate {mode} {n} at {at}", lambda fd: fallocate(fd, mode, at, n))

    def op_mmap(self):
        at, n = self.some_range()
        data, write = self.r.randbytes(n), self.r.random() < 0.6
        at &= ~4095

        def action(fd):
            st = os.fstat(fd)
            if not stat.S_ISREG(st.st_mode) or at + n > st.st_size:
                return "not possible"
            prot = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
            try:
                m = mmap.mmap(fd, n, mmap.MAP_SHARED, prot, offset=at)
            except PermissionError:
                return "denied"
            with m:
                before = bytes(m)
                if write:
                    m[:] = data
                return before
        self.with_fd(f"mmap {n} at {at} write={write}", action)

    def op_copy(self):
        a, b = self.fd(), self.fd()
        at, n = self.some_range()
        to, _ = self.some_range()
        if a is not None and a != b:
            # a short count is allowed: what matters is what arrives
            def action(s):
                data = os.pread(s.fds[a], n, at)
                return os.pwrite(s.fds[b], data, to)
            self.both(f"copy {n} from {a} at {at} to {b} at {to}", action)

    def op_stat(self):
        name = self.some_file()

        def action(side):
            st = os.lstat(side.path(name))
            return (st.st_mode, st.st_uid, st.st_gid, None if stat.S_ISDIR(st.st_mode) else st.st_nlink,
                    None if stat.S_ISDIR(st.st_mode) else st.st_size)
        self.both(f"lstat {name}", action)

    def op_truncate(self):
        name, size = self.some_file(), self.r.randrange(MAX_SIZE)
        self.both(f"truncate {name} {size}", lambda s: os.truncate(s.path(name), size))

    def op_unlink(self):
        name = self.some_file()
        self.both(f"unlink {name}", lambda s: os.unlink(s.path(name)))

    def op_mkdir(self):
        name = self.some_path()
        self.both(f"mkdir {name}", lambda s: os.mkdir(s.path(name)))

    def op_rmdir(self):
        name = self.some_path()
        self.both(f"rmdir {name}", lambda s: os.rmdir(s.path(name)))

    def op_rename(self):
        a = self.r.choice([self.some_file(), self.some_path()])
        b = self.r.choice([self.some_file(), self.some_path()])
        full = self.sides[1].path(a)
        if self.writeback and os.path.isdir(full) and not os.path.islink(full):
            return
        self.both(f"rename {a} {b}", lambda s: os.rename(s.path(a), s.path(b)))

    def op_link(self):
        a, b = self.some_file(), self.some_path()
        self.both(f"link {a} {b}", lambda s: os.link(s.path(a), s.path(b), follow_symlinks=False))

    def op_symlink(self):
        a, b = self.r.choice(NAMES), self.some_path()
        self.both(f"symlink {a} {b}", lambda s: os.symlink(a, s.path(b)))

    def op_readlink(self):
        name = self.some_file()
        self.both(f"readlink {name}", lambda s: os.readlink(s.path(name)))

    def op_list(self):
        name = self.r.choice(["", self.some_path()])
        self.both(f"list {name}", lambda s: sorted(os.listdir(s.path(name))))

    def op_chmod(self):
        name, mode = self.some_file(), self.r.choice([0o600, 0o644, 0o755, 0o400])
        if not os.path.islink(self.sides[1].path(name)):
            self.both(f"chmod {name} {mode:o}", lambda s: os.chmod(s.path(name), mode))

    def op_utime(self):
        name, t = self.some_file(), self.r.randrange(1 << 31)

        def action(side):
            os.utime(side.path(name), (t, t + 1), follow_symlinks=False)
            st = os.lstat(side.path(name))
            return st.st_atime, st.st_mtime
        self.both(f"utime {name} {t}", action)

    def op_xattr(self):
        name, key, value = self.some_file(), self.r.choice("pqr"), self.r.randbytes(20)
        key = "user.test." + key
        if os.path.islink(self.sides[1].path(name)):
            return
        if self.r.random() < 0.3:
            self.both(f"removexattr {name} {key}", lambda s: os.removexattr(s.path(name), key))
        else:
            self.both(f"setxattr {name} {key}", lambda s: os.setxattr(s.path(name), key, value))
        self.both(f"getxattr {name} {key}", lambda s: os.getxattr(s.path(name), key))

    def run(self, operations):
        ops = [getattr(self, n) for n in sorted(dir(self)) if n.startswith("op_")]
        if self.writeback:
            ops.remove(self.op_link)
        common = [self.op_open, self.op_pread, self.op_pwrite, self.op_pread, self.op_pwrite,
                  self.op_mmap]
        for i in range(operations):
            self.r.choice(ops + common * 3)()
            if i % 500 == 499:
                compare(*self.sides, f"after {i + 1} operations")
        for side in self.sides:
            for fd in side.fds.values():
                os.close(fd)
        compare(*self.sides, "at the end")


def main():
    tested, model, seed, operations = sys.argv[1:5]
    if sys.argv[5:] == ["check"]:
        compare(Side(tested), Side(model), "comparison")
    else:
        Model(tested, model, int(seed), sys.argv[5:] == ["writeback"]).run(int(operations))
    print("same")


main()

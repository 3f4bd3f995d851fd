# SPDX-License-Identifier: Apache-2.0
"""Migration over sockets (ferry-image-cache(1)): dump and restore one after the other, or at the same time.

One host plays both sides; the restored tree gets a pid namespace of its own, as its pids are taken.
"""
import os
import subprocess

LIMIT_S = 120


class Relays:
    """An image-cache and the image-proxy that feeds it, each with a work directory."""

    def __init__(self, program, folder, max_memory):
        self.program = program
        self.max_memory = max_memory
        self.folder = folder
        self.secret = folder / "secret"
        self.secret.write_text(os.urandom(16).hex(), "ascii")
        self.secret.chmod(0o600)
        self.running = []

    def start(self, command, *options):
        """Starts one; returns what it prints when it listens."""
        work = self.folder / command
        work.mkdir()
        listening, ready = os.pipe()
        with open(work / "out", "wb") as out:
            self.running.append(subprocess.Popen(
                [self.program, command, "-W", str(work), "-o", "log", "--status-fd", str(ready), "--secret-file",
                 str(self.secret), "--max-memory", self.max_memory, *options], stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, pass_fds=(ready,)))
        os.close(ready)
        heard = os.read(listening, 1)
        os.close(listening)
        text = (work / "out").read_text("utf-8", "replace").strip()
        if heard != b"\0":
            raise RuntimeError(f"{command} does not listen: {text}")
        return text

    def __enter__(self):
        self.start("image-proxy", "--port", self.start("image-cache"))
        return self

    def __exit__(self, *_):
        for process in self.running:
            process.terminate()
            process.wait(LIMIT_S)

    def command(self, name, work, *options):
        """Starts dump or restore, at the relay that has this work directory."""
        return subprocess.Popen([self.program, name, "--remote", "-W", str(work), "-D", str(work), *options],
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def move(self, pid, together):
        """Dumps a tree and restores it; returns its new pid."""
        target = self.folder / "image-cache"
        restore = ("restore", target, "-d", "--pids=new", "--pidfile", "pid", "-o", "restore.log")
        commands = [self.command(*restore)] if together else []
        commands.append(self.command("dump", self.folder / "image-proxy", "-t", str(pid), "-o", "dump.log"))
        if not together:
            finish(commands.pop())
            commands.append(self.command(*restore))
        for command in commands:
            finish(command)
        return int((target / "pid").read_text("ascii"))


def finish(process):
    """Waits for the end of a command; it must have done its work."""
    text = process.communicate(timeout=LIMIT_S)[0].decode(errors="replace")
    if process.returncode:
        raise RuntimeError(f"{' '.join(process.args[:2])}: exit status {process.returncode}\n{text[-2000:]}")

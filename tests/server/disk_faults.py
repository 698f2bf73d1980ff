"""A disk that forgets: runs a server under tests/disk-faults, and rebuilds its directory as a power cut would leave it.

What a cut keeps: of each file what was synced, and any part of what was written after; of each directory the entries that it had when
it was synced last, and any of those made or removed since. The choices are a `random.Random`'s."""

import os
import shutil

from bridge import binary
from instance import memory_dir

LIBRARY = binary().parent / "libdisk_faults.so"


class ForgetfulDisk:
    def __init__(self, directory):
        assert LIBRARY.is_file(), f"{LIBRARY} is missing: cargo build --workspace"
        self.directory = directory
        self.notes = memory_dir("faults")
        # On the same file system as what is buried.
        self.graves = directory.parent / f"{directory.name}-graves"
        self.graves.mkdir()
        self.log = self.notes / "log"
        self.eio = self.notes / "eio"
        self.log.touch()
        # What is there before the server starts is durable.
        self.note_all()

    def environment(self):
        return {"LD_PRELOAD": str(LIBRARY), "DISK_FAULTS_DIR": str(self.directory), "DISK_FAULTS_LOG": str(self.log),
                "DISK_FAULTS_GRAVES": str(self.graves), "DISK_FAULTS_EIO": str(self.eio)}

    def note_all(self):
        with self.log.open("a") as log:
            for folder, _, names in os.walk(self.directory):
                entries = "/".join(f"{entry.name}={entry.inode()}" for entry in os.scandir(folder))
                log.write(f"entries {os.stat(folder).st_ino} {entries}\n")
                for name in names:
                    facts = os.lstat(os.path.join(folder, name))
                    log.write(f"sync {facts.st_ino} {facts.st_size}\n")

    def durable(self):
        """Inode → synced bytes, and inode of a directory → its synced entries."""
        sizes, entries = {}, {}
        for line in self.log.read_text().splitlines():
            kind, inode, rest = (line.split(" ", 2) + [""])[:3]
            if kind == "sync":
                sizes[int(inode)] = max(int(rest), sizes.get(int(inode), 0))
            else:
                pairs = [pair.rpartition("=") for pair in rest.split("/") if pair]
                entries[int(inode)] = {name: int(number) for name, _, number in pairs}
        return sizes, entries

    def cut(self, dice):
        """The server is dead. Gives how many bytes and entries were forgotten."""
        sizes, entries = self.durable()
        data, links = {}, {}
        for root in (self.directory, self.graves):
            for folder, _, names in os.walk(root):
                for name in names:
                    path = os.path.join(folder, name)
                    inode = os.lstat(path).st_ino
                    if os.path.islink(path):
                        links[inode] = os.readlink(path)
                    else:
                        data[inode] = path
        contents, forgotten = {}, {"bytes": 0, "entries": 0}
        for inode, path in data.items():
            with open(path, "rb") as file:
                whole = file.read()
            synced = min(sizes.get(inode, 0), len(whole))
            kept = dice.choice([synced, len(whole), dice.randint(synced, len(whole))])
            contents[inode] = whole[:kept]
            forgotten["bytes"] += len(whole) - kept
        folders = [folder for folder, _, _ in os.walk(self.directory)]
        for folder in sorted(folders, key=len, reverse=True):
            was = entries.get(os.stat(folder).st_ino, {})
            now = {entry.name: entry.inode() for entry in os.scandir(folder)}
            image = {}
            for name in was.keys() | now.keys():
                # An entry that changed since the last sync may be the old or the new one.
                chosen = was.get(name) if was.get(name) == now.get(name) else dice.choice([was.get(name), now.get(name)])
                forgotten["entries"] += chosen != now.get(name)
                if chosen is not None:
                    image[name] = chosen
            for name in now:
                path = os.path.join(folder, name)
                if os.path.isdir(path) and not os.path.islink(path):
                    if name not in image:
                        shutil.rmtree(path)
                    image.pop(name, None)
                else:
                    os.unlink(path)
            for name, inode in image.items():
                path = os.path.join(folder, name)
                if inode in links:
                    os.symlink(links[inode], path)
                elif inode in contents:
                    with open(path, "wb") as file:
                        file.write(contents[inode])
        shutil.rmtree(self.graves)
        self.graves.mkdir()
        self.log.write_text("")
        self.note_all()
        return forgotten

    def close(self):
        shutil.rmtree(self.notes, ignore_errors=True)
        shutil.rmtree(self.graves, ignore_errors=True)

//! The fixture's directory, which both ends see under the same path:
//!
//! ```text
//! link/socket   where the token side listens
//! link/key      32 bytes that both ends hold, readable by their user alone
//! link/owner    locked by the program that started the token side, for as long as it lives
//! token/        SoftHSM's configuration and tokens
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::{fs, process, thread};

use rustix::fs::FlockOperation;

use crate::handshake::{KEY_BYTES, Key};

pub struct Place {
    root: PathBuf,
}

impl Place {
    pub fn at(root: &Path) -> Place {
        Place { root: root.to_owned() }
    }

    /// Makes the directories and the key, where they are missing.
    pub fn make(&self) -> io::Result<()> {
        for folder in [self.root.join("link"), self.token()] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        if !self.key_file().exists() {
            let mut key = [0; KEY_BYTES];
            getrandom::fill(&mut key).map_err(io::Error::other)?;
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.key_file())?.write_all(&key)?;
        }
        OpenOptions::new().append(true).create(true).mode(0o600).open(self.owner_file())?;
        Ok(())
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn token(&self) -> PathBuf {
        self.root.join("token")
    }

    pub fn socket(&self) -> PathBuf {
        self.root.join("link/socket")
    }

    pub fn key(&self) -> io::Result<Key> {
        let path = self.key_file();
        let mut file = File::open(&path)?;
        if file.metadata()?.permissions().mode() & 0o077 != 0 {
            return Err(io::Error::other(format!("`{}` is readable by others", path.display())));
        }
        let mut key = Vec::new();
        file.read_to_end(&mut key)?;
        Key::try_from(key).map_err(|_| io::Error::other(format!("`{}` has not {KEY_BYTES} bytes", path.display())))
    }

    /// For the program that starts the token side. The token side ends when this lock goes, however its holder ended.
    pub fn own(&self) -> io::Result<File> {
        let file = File::open(self.owner_file())?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| io::Error::other(format!("`{}` has an owner: {error}", self.root.display())))?;
        Ok(file)
    }

    /// Ends this process, and those of its group, when the owner is gone. A lock is seen through a bind mount too.
    pub fn die_with_the_owner(&self) -> io::Result<()> {
        let file = File::open(self.owner_file())?;
        thread::spawn(move || {
            // A shared lock: several may wait.
            while rustix::fs::flock(&file, FlockOperation::LockShared).is_err() {}
            eprintln!("token side: whoever started this is gone");
            // The group is this program's own where it was started as its leader; else it may be anybody's.
            if rustix::process::getpgrp() == rustix::process::getpid() {
                let _ = rustix::process::kill_current_process_group(rustix::process::Signal::KILL);
            }
            process::exit(1);
        });
        Ok(())
    }

    fn key_file(&self) -> PathBuf {
        self.root.join("link/key")
    }

    fn owner_file(&self) -> PathBuf {
        self.root.join("link/owner")
    }
}

//! What is counted over all processes: a line in a file, locked from reading it to the end of the value.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};

use crate::Faults;
use crate::rules::exit;

pub struct Kept {
    file: File,
    name: String,
}

impl Kept {
    /// With what stands in it: nothing at first.
    pub fn read(faults: &Faults, name: String) -> (Kept, String) {
        let read = || -> io::Result<(File, String)> {
            std::fs::create_dir_all(&faults.state)?;
            let path = faults.state.join(&name);
            let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
            file.lock()?;
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            Ok((file, text))
        };
        match read() {
            Ok((file, text)) => (Kept { file, name }, text),
            Err(error) => failed(&name, &error),
        }
    }

    pub fn write(&mut self, line: &str) {
        let written =
            self.file.set_len(0).and_then(|()| self.file.rewind()).and_then(|()| writeln!(self.file, "{line}"));
        if let Err(error) = written {
            failed(&self.name, &error);
        }
    }
}

fn failed(name: &str, error: &io::Error) -> ! {
    eprintln!("pkcs11-faults: what is kept in `{name}`: {error}");
    exit(97)
}

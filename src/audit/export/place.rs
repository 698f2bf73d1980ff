//! Where an export is made and where it ends: nothing of it is to be seen before all of it is there.

use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;

use super::parts::Part;
use super::{Error, Job, failed};

/// Unfinished exports, on the file system of the bucket.
const WORK: &str = "exports.unfinished";

/// A folder for an export that is being made; gone when this is dropped, whether or not it ended well.
pub struct Workshop(PathBuf);

impl Workshop {
    /// One export at a time: what an earlier one left behind is removed.
    pub fn open(dir: &Path) -> Result<Workshop, Error> {
        let path = dir.join(WORK);
        let told = || failed(format!("making `{}`", path.display()));
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(told()(error)),
            _ => {}
        }
        DirBuilder::new().mode(0o750).create(&path).map_err(told())?;
        Ok(Workshop(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A folder in it.
    pub fn folder(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.0.join(name);
        DirBuilder::new().mode(0o750).create(&path).map_err(failed(format!("making `{}`", path.display())))?;
        Ok(path)
    }

    /// Copies the export for the operator, then puts it in its place in the bucket.
    pub fn deliver(self, job: &Job<'_>, prefix: &str) -> Result<(), Error> {
        if let Some(out) = &job.out {
            copy(&self.0, out)?;
        }
        let to = job.dir.join("bucket").join(prefix);
        let told = || failed(format!("making `{}`", to.display()));
        if let Some(parent) = to.parent() {
            DirBuilder::new().recursive(true).mode(0o750).create(parent).map_err(told())?;
        }
        sync(&self.0).map_err(told())?;
        std::fs::rename(&self.0, &to).map_err(told())?;
        to.parent().map_or(Ok(()), sync).map_err(told())
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// `[prefix/]AWSLogs/<account>/CloudTrail-Lake/Query/YYYY/MM/DD/<id>`, where AWS puts the results of queries.
pub fn prefix(job: &Job<'_>) -> String {
    let day = crate::audit::record::seconds(job.now.div_euclid(1_000_000));
    let day = day.get(..10).unwrap_or_default().replace('-', "/");
    let before = job.key_prefix.as_ref().map(|prefix| format!("{prefix}/")).unwrap_or_default();
    format!("{before}AWSLogs/{}/CloudTrail-Lake/Query/{day}/{}", job.account, job.id)
}

/// A whole copy below `out`, which does not exist yet.
fn copy(from: &Path, out: &Path) -> Result<(), Error> {
    let told = || failed(format!("writing `{}`", out.display()));
    match DirBuilder::new().mode(0o750).create(out) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(Error::Exists(out.to_owned())),
        made => made.map_err(told())?,
    }
    for entry in std::fs::read_dir(from).map_err(told())? {
        let entry = entry.map_err(told())?;
        let to = out.join(entry.file_name());
        if entry.file_type().map_err(told())?.is_dir() {
            copy(&entry.path(), &to)?;
            continue;
        }
        let mut source = File::open(entry.path()).map_err(told())?;
        let target = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o640).open(&to);
        let mut target = target.map_err(told())?;
        io::copy(&mut source, &mut target).and_then(|_| target.sync_all()).map_err(told())?;
    }
    sync(out).map_err(told())
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// A file that is there already, as a part.
pub fn hashed(dir: &Path, name: &str) -> io::Result<Part> {
    let mut file = File::open(dir.join(name))?;
    let mut hash = digest::Context::new(&digest::SHA256);
    let (mut buffer, mut bytes) = (vec![0; 128 * 1024], 0);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hash.update(buffer.get(..read).unwrap_or_default());
        bytes += read as u64;
    }
    Ok(Part { name: name.to_owned(), bytes, sha256: hex::encode(hash.finish()), rows: None })
}

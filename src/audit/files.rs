//! The one file of the log that locks, renames, links and syncs.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;

use super::AuditError;
use super::verify::line::segment_name;

pub(super) const CURRENT: &str = "current.jsonl";
const LATEST: &str = "latest";
const RESERVE: &str = "RESERVE";

/// The open segment, as far as the writer needs it; tests put faults in between.
pub(super) trait SegmentFile: Send {
    /// One write; may accept fewer bytes than it was given.
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Returns when all accepted bytes are on stable storage.
    fn sync(&mut self) -> io::Result<()>;
    fn facts(&self) -> io::Result<FileFacts>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileFacts {
    pub links: u64,
    pub device: u64,
    pub inode: u64,
    pub bytes: u64,
}

impl From<std::fs::Metadata> for FileFacts {
    fn from(metadata: std::fs::Metadata) -> Self {
        FileFacts { links: metadata.nlink(), device: metadata.dev(), inode: metadata.ino(), bytes: metadata.len() }
    }
}

impl SegmentFile for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn facts(&self) -> io::Result<FileFacts> {
        self.metadata().map(FileFacts::from)
    }
}

pub(super) fn path_facts(path: &Path) -> io::Result<FileFacts> {
    std::fs::symlink_metadata(path).map(FileFacts::from)
}

/// Turns a fresh file into a segment's file.
pub(super) type Wrap = Box<dyn FnMut(File) -> Box<dyn SegmentFile> + Send>;

/// Nothing was accepted because there is no room, in contrast to every other error.
pub(super) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// `<dir>/journal`, made if it is not there.
pub(super) fn make_directories(dir: &Path) -> io::Result<PathBuf> {
    let journal = dir.join("journal");
    for path in [dir, &journal] {
        if !path.is_dir() {
            DirBuilder::new().recursive(true).mode(0o750).create(path)?;
            if let Some(parent) = path.parent() {
                sync_directory(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
            }
        }
    }
    Ok(journal)
}

/// One writer per log. The lock ends with the returned file, also when the process is killed.
pub(super) fn lock(dir: &Path) -> Result<File, AuditError> {
    let path = dir.join("LOCK");
    let failed = |error: io::Error| AuditError::Failed(format!("cannot lock `{}`: {error}", path.display()));
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o640)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = (&mut file).take(32).read_to_string(&mut pid);
            let pid = pid.trim().to_string();
            return Err(AuditError::Locked {
                dir: dir.to_path_buf(),
                pid: if pid.is_empty() { "?".into() } else { pid },
            });
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    // Only for the message of a second instance: a full disk must not keep the lock from being taken.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

/// Names of the segments, oldest first. Removes unfinished new segments, which never held an acknowledged record.
pub(super) fn segments(journal: &Path, clean: bool) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(journal)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if segment_name(&name).is_some() {
            names.push(name);
        } else if clean && name.ends_with(".new") {
            std::fs::remove_file(journal.join(&name))?;
        }
    }
    names.sort();
    Ok(names)
}

/// Why a segment could not be made.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Nothing was accepted; a later try may work.
    NoSpace,
    Failed(String),
}

/// Makes a segment with its first lines: it appears under its name only when they are on stable storage.
pub(super) fn create_segment(
    journal: &Path,
    name: &str,
    lines: &[u8],
    wrap: &mut Wrap,
) -> Result<Box<dyn SegmentFile>, Trouble> {
    let (path, fresh) = (journal.join(name), journal.join(format!("{name}.new")));
    if path.symlink_metadata().is_ok() {
        return Err(Trouble::Failed(format!("`{}` exists already", path.display())));
    }
    let made = (|| {
        let mut file = wrap(open_new(&fresh)?);
        write_all(file.as_mut(), lines)?;
        file.sync()?;
        std::fs::rename(&fresh, &path)?;
        Ok(file)
    })();
    let file = made.map_err(|error: io::Error| {
        let _ = std::fs::remove_file(&fresh);
        if is_no_space(&error) {
            Trouble::NoSpace
        } else {
            Trouble::Failed(format!("cannot begin segment `{}`: {error}", path.display()))
        }
    })?;
    sync_directory(journal)
        .map_err(|error| Trouble::Failed(format!("cannot sync `{}`: {error}", journal.display())))?;
    if let Err(error) = point(journal, CURRENT, name) {
        tracing::warn!(%error, segment = name, "the link to the current segment of the audit log could not be set");
    }
    Ok(file)
}

fn open_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create_new(true).mode(0o640).open(path)
}

fn write_all(file: &mut dyn SegmentFile, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.append(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(accepted) => bytes = bytes.get(accepted..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A symbolic link to the newest file. Only a convenience for readers: nothing of ours trusts it.
fn point(dir: &Path, link: &str, name: &str) -> io::Result<()> {
    let fresh = dir.join(format!("{link}.new"));
    let _ = std::fs::remove_file(&fresh);
    std::os::unix::fs::symlink(name, &fresh)?;
    std::fs::rename(&fresh, dir.join(link))
}

/// `<dir>/checkpoints/<size>`: whole and on stable storage, or not there.
pub(super) fn write_checkpoint(dir: &Path, size: u64, note: &str) -> io::Result<()> {
    let checkpoints = dir.join("checkpoints");
    if !checkpoints.is_dir() {
        DirBuilder::new().mode(0o750).create(&checkpoints)?;
        sync_directory(dir)?;
    }
    let name = format!("{size:020}");
    write_whole(&checkpoints, &name, note.as_bytes())?;
    if let Err(error) = point(&checkpoints, LATEST, &name) {
        tracing::warn!(%error, "the link to the latest checkpoint of the audit log could not be set");
    }
    Ok(())
}

fn write_whole(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let fresh = dir.join(format!("{name}.new"));
    let _ = std::fs::remove_file(&fresh);
    let written = (|| {
        let mut file = open_new(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&fresh, dir.join(name))
    })();
    if let Err(error) = written {
        let _ = std::fs::remove_file(&fresh);
        return Err(error);
    }
    sync_directory(dir)
}

/// Sizes of the checkpoints that are kept, the newest first.
pub(super) fn checkpoints(dir: &Path) -> io::Result<Vec<u64>> {
    let entries = match std::fs::read_dir(dir.join("checkpoints")) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut sizes = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        if let Some(name) = name.to_str()
            && name.len() == 20
            && name.bytes().all(|byte| byte.is_ascii_digit())
            && let Ok(size) = name.parse()
        {
            sizes.push(size);
        }
    }
    sizes.sort_unstable_by_key(|size: &u64| std::cmp::Reverse(*size));
    Ok(sizes)
}

pub(super) fn checkpoint_path(dir: &Path, size: u64) -> PathBuf {
    dir.join("checkpoints").join(format!("{size:020}"))
}

/// Renames checkpoints of records that a person gave up: they stay to be seen, and no start compares with them again.
pub(super) fn set_aside_checkpoints(dir: &Path, sizes: &[u64], stamp: &str) -> io::Result<()> {
    for size in sizes {
        let path = checkpoint_path(dir, *size);
        let mut aside = path.with_extension(format!("lost-{stamp}"));
        let mut more = 0;
        while aside.symlink_metadata().is_ok() {
            more += 1;
            aside = path.with_extension(format!("lost-{stamp}-{more}"));
        }
        std::fs::rename(&path, &aside)?;
    }
    if sizes.is_empty() { Ok(()) } else { sync_directory(&dir.join("checkpoints")) }
}

pub(super) fn has_reserve(dir: &Path, bytes: u64) -> bool {
    path_facts(&dir.join(RESERVE)).is_ok_and(|facts| facts.bytes == bytes)
}

/// Takes `bytes` of the file system for the day when it is full.
pub(super) fn make_reserve(dir: &Path, bytes: u64) -> io::Result<()> {
    let path = dir.join(RESERVE);
    let _ = std::fs::remove_file(&path);
    let made = open_new(&path).and_then(|mut file| {
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(()),
            // A file system that cannot reserve: written, then.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                io::copy(&mut io::repeat(0).take(bytes), &mut file)?;
                file.sync_all()
            }
            Err(error) => Err(error.into()),
        }
    });
    made.inspect_err(|_| {
        let _ = std::fs::remove_file(&path);
    })
}

/// Gives the reserve's bytes back to the file system. Says whether there was one.
pub(super) fn release_reserve(dir: &Path) -> bool {
    std::fs::remove_file(dir.join(RESERVE)).is_ok()
}

pub(super) fn ends_in_newline(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == [b'\n'])
}

/// Bytes cut from the end of a segment, as kept.
#[derive(Debug, Clone)]
pub(super) struct Torn {
    pub file: String,
    pub bytes: u64,
    pub sha256: String,
}

/// Keeps the bytes from `whole` on beside the segment. RULE audit.md §7.9: never silently dropped.
pub(super) fn save_torn(journal: &Path, name: &str, whole: u64, stamp: &str) -> io::Result<Torn> {
    let mut file = format!("{name}.torn-{stamp}");
    let mut more = 0;
    while journal.join(&file).symlink_metadata().is_ok() {
        more += 1;
        file = format!("{name}.torn-{stamp}-{more}");
    }
    let path = journal.join(&file);
    let copied = (|| {
        let mut from = File::open(journal.join(name))?;
        from.seek(SeekFrom::Start(whole))?;
        let mut to = open_new(&path)?;
        io::copy(&mut BufReader::new(from), &mut to)?;
        to.sync_all()
    })();
    if let Err(error) = copied {
        // Half a copy, which the next try would mistake for a whole one.
        let _ = std::fs::remove_file(&path);
        return Err(error);
    }
    sync_directory(journal)?;
    torn_facts(journal, file)
}

/// What an unfinished recovery of this segment has kept already.
pub(super) fn saved_torn(journal: &Path, name: &str) -> io::Result<Option<Torn>> {
    let prefix = format!("{name}.torn-");
    let mut found: Option<String> = None;
    for entry in std::fs::read_dir(journal)? {
        let file = entry?.file_name().to_string_lossy().into_owned();
        if file.starts_with(&prefix) && found.as_ref().is_none_or(|other| *other < file) {
            found = Some(file);
        }
    }
    found.map(|file| torn_facts(journal, file)).transpose()
}

fn torn_facts(journal: &Path, file: String) -> io::Result<Torn> {
    let mut reader = BufReader::new(File::open(journal.join(&file))?);
    let mut hasher = Hasher(digest::Context::new(&digest::SHA256));
    let bytes = io::copy(&mut reader, &mut hasher)?;
    Ok(Torn { file, bytes, sha256: hex::encode(hasher.0.finish()) })
}

struct Hasher(digest::Context);

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Puts the first `whole` bytes of a segment into a new file under its name. What a process that died had not synced is
/// synced by this, whatever became of its cached pages.
pub(super) fn rewrite(journal: &Path, name: &str, whole: u64) -> io::Result<()> {
    let (path, fresh) = (journal.join(name), journal.join(format!("{name}.new")));
    let mut to = open_new(&fresh)?;
    let copied = io::copy(&mut File::open(&path)?.take(whole), &mut to)?;
    if copied != whole {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    to.sync_all()?;
    std::fs::rename(&fresh, &path)?;
    sync_directory(journal)
}

/// Puts an object at `path` of the bucket `root`, in place of what is there: whole or not at all, and on stable storage.
pub(super) fn publish(root: &Path, object: &str, bytes: &[u8]) -> io::Result<()> {
    let path = root.join(object);
    let folder = path.parent().unwrap_or(root);
    make_synced(folder)?;
    // Beside the bucket, so that nobody finds it there. One writer per trail: the name is nobody else's.
    let fresh = root.with_file_name("sealing.new");
    replace(&fresh, &path, bytes)
}

/// Writes and syncs `fresh`, then gives it the name `path`.
fn replace(fresh: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(fresh)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| std::fs::rename(fresh, path)) {
        let _ = std::fs::remove_file(fresh);
        return Err(error);
    }
    sync_directory(path.parent().unwrap_or(Path::new(".")))
}

/// Moves an object out of the bucket, to `<trail>/aside/`, under its last name.
pub(super) fn set_aside(root: &Path, object: &str, stamp: &str) -> io::Result<PathBuf> {
    let aside = root.with_file_name("aside");
    make_synced(&aside)?;
    let path = root.join(object);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let to = aside.join(format!("{name}.{stamp}"));
    std::fs::rename(&path, &to)?;
    sync_directory(&aside)?;
    sync_directory(path.parent().unwrap_or(root))?;
    Ok(to)
}

/// Deletes a file, and the folders that are empty without it, up to `root`. Harmless when repeated.
pub(super) fn remove(root: &Path, name: &str) -> io::Result<()> {
    let path = root.join(name);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut folder = path.parent();
    while let Some(empty) = folder.filter(|folder| *folder != root && folder.starts_with(root)) {
        if std::fs::remove_dir(empty).is_err() {
            break;
        }
        folder = empty.parent();
    }
    match folder {
        Some(folder) if folder.is_dir() => sync_directory(folder),
        _ => Ok(()),
    }
}

fn make_synced(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().unwrap_or(Path::new("."));
    make_synced(parent)?;
    DirBuilder::new().mode(0o750).create(folder)?;
    sync_directory(parent)
}

/// A whole file under its name, or none: on stable storage when this returns. Makes its folder.
pub fn place(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    make_synced(folder)?;
    replace(&folder.join(format!("{name}.new")), &folder.join(name), bytes)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

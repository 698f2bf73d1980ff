//! The sealed files as objects of a bucket. An object's key is its path below the bucket's folder; nothing outside of it is ever
//! read, and a page of a listing looks only at the folders that it needs.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::unreadable;
use crate::ops::{ListObjects, Object, ObjectFacts, ObjectList, OpError, TrailRefusal};

/// What is read at once. Clients ask for larger objects in ranges.
const LARGEST_BODY: u64 = 64 * 1024 * 1024;
/// An object's metadata, beside it.
const SIDECAR: &str = ".meta";
/// What is being written has this ending until it is whole.
const UNFINISHED: &str = ".new";

pub(in crate::app) struct Bucket {
    root: PathBuf,
}

impl Bucket {
    pub fn new(root: PathBuf) -> Bucket {
        Bucket { root }
    }

    /// One page. RULE S3: keys in the order of their bytes.
    pub fn list(&self, request: ListObjects) -> Result<ObjectList, OpError> {
        let mut page = Page { request: &request, found: Vec::new() };
        if request.max_keys > 0 {
            self.walk(&self.root, "", &mut page).map_err(|error| unreadable("the bucket", error))?;
        }
        let most = request.max_keys as usize;
        let mut found = page.found;
        let more = found.len() > most;
        found.truncate(most);
        let next = found.last().filter(|_| more).map(|item| item.key().to_owned());
        let mut list = ObjectList { next, ..ObjectList::default() };
        for item in found {
            match item {
                Item::Prefix(prefix) => list.common_prefixes.push(prefix),
                // Gone since: retention took it.
                Item::Object(key) => list.objects.extend(self.facts(key)?),
            }
        }
        list.request = request;
        Ok(list)
    }

    /// The object with the greatest key below `prefix`, which ends in `/`.
    pub fn last(&self, prefix: &str) -> Result<Option<ObjectFacts>, OpError> {
        let found = self.greatest(&self.root.join(prefix), prefix).map_err(|error| unreadable("the bucket", error))?;
        found.map_or(Ok(None), |key| self.facts(key))
    }

    pub fn object(&self, key: &str, range: Option<&str>, head: bool) -> Result<Object, OpError> {
        let none = || OpError::Trail(TrailRefusal::NoSuchKey(key.to_owned()));
        let read = |error: io::Error| unreadable("an object", error);
        let path = self.path(key).map_err(read)?.ok_or_else(none)?;
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(none()),
            opened => opened.map_err(read)?,
        };
        let facts = facts(key.to_owned(), &file.metadata().map_err(read)?);
        let range = range.map(|text| asked_range(text, facts.size)).transpose()?.flatten();
        let (first, length) = range.map_or((0, facts.size), |(first, last)| (first, last - first + 1));
        let body = if head {
            None
        } else if length > LARGEST_BODY {
            return Err(OpError::Unsupported(
                "the object is too large to be read at once: ask for it in ranges".into(),
            ));
        } else {
            let mut body = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
            file.seek(SeekFrom::Start(first)).map_err(read)?;
            file.take(length).read_to_end(&mut body).map_err(read)?;
            Some(body)
        };
        let content_type = if key.ends_with(".gz") { "application/x-gzip" } else { "binary/octet-stream" };
        Ok(Object { facts, body, range, metadata: metadata(&path).map_err(read)?, content_type })
    }

    fn facts(&self, key: String) -> Result<Option<ObjectFacts>, OpError> {
        let path = self.path(&key).map_err(|error| unreadable("an object", error))?;
        match path.map(std::fs::metadata).transpose() {
            Ok(metadata) => Ok(metadata.map(|metadata| facts(key, &metadata))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unreadable("an object", error)),
        }
    }

    /// Where an object is. `None`: no key of ours has this form, or the path leaves the folder, or there is no plain file.
    fn path(&self, key: &str) -> io::Result<Option<PathBuf>> {
        let of_ours = key.split('/').all(is_shown) && !key.contains('\0');
        if !of_ours {
            return Ok(None);
        }
        let found = std::fs::canonicalize(self.root.join(key)).and_then(|path| Ok((path, self.root.canonicalize()?)));
        match found {
            // Without links the way is as it was asked for: a link would lead elsewhere, or make two keys of one object.
            Ok((path, root)) => Ok(Some(path).filter(|path| *path == root.join(key) && path.is_file())),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// `key` is that of the folder: empty, or with a slash at its end. Stops when the page is full, by one more than is told.
    fn walk(&self, folder: &Path, key: &str, page: &mut Page<'_>) -> io::Result<()> {
        for entry in entries(folder, key)? {
            if page.is_full() {
                return Ok(());
            }
            if !page.may_hold(&entry) {
                continue;
            }
            match page.rolled_up(&entry.key) {
                Some(prefix) if page.has(&prefix) => {}
                // A folder without objects is nothing in S3.
                Some(prefix) => {
                    if prefix.as_str() > page.request.after.as_str()
                        && (!entry.is_folder || self.greatest(&entry.path, &entry.key)?.is_some())
                    {
                        page.found.push(Item::Prefix(prefix));
                    }
                }
                None if entry.is_folder => self.walk(&entry.path, &entry.key, page)?,
                None => page.found.push(Item::Object(entry.key)),
            }
        }
        Ok(())
    }

    fn greatest(&self, folder: &Path, key: &str) -> io::Result<Option<String>> {
        for entry in entries(folder, key)?.into_iter().rev() {
            if !entry.is_folder {
                return Ok(Some(entry.key));
            }
            if let Some(found) = self.greatest(&entry.path, &entry.key)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// A page that is being filled.
struct Page<'a> {
    request: &'a ListObjects,
    found: Vec<Item>,
}

enum Item {
    Object(String),
    Prefix(String),
}

impl Item {
    fn key(&self) -> &str {
        match self {
            Item::Object(key) | Item::Prefix(key) => key,
        }
    }
}

impl Page<'_> {
    fn is_full(&self) -> bool {
        self.found.len() > self.request.max_keys as usize
    }

    /// Whether the entry, or something in it, has the prefix and comes after the marker.
    fn may_hold(&self, entry: &Entry) -> bool {
        let (prefix, after, key) = (self.request.prefix.as_str(), self.request.after.as_str(), entry.key.as_str());
        match entry.is_folder {
            true => (key.starts_with(prefix) || prefix.starts_with(key)) && (key > after || after.starts_with(key)),
            false => key.starts_with(prefix) && key > after,
        }
    }

    /// The common prefix that stands for this key: up to the first delimiter behind the prefix asked for.
    fn rolled_up(&self, key: &str) -> Option<String> {
        let delimiter = self.request.delimiter.as_deref()?;
        let rest = key.strip_prefix(self.request.prefix.as_str())?;
        let end = rest.find(delimiter)? + delimiter.len();
        Some(format!("{}{}", self.request.prefix, rest.get(..end)?))
    }

    fn has(&self, prefix: &str) -> bool {
        matches!(self.found.last(), Some(Item::Prefix(last)) if last == prefix)
    }
}

struct Entry {
    path: PathBuf,
    /// A folder's ends in a slash: so names are ordered as the keys below them (`a-b/` before `a/`).
    key: String,
    is_folder: bool,
}

/// What a folder shows, in the order of keys. Links are not followed and not shown.
fn entries(folder: &Path, key: &str) -> io::Result<Vec<Entry>> {
    let read = match std::fs::read_dir(folder) {
        Ok(read) => read,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut entries = Vec::new();
    for entry in read {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let kind = entry.file_type()?;
        if !is_shown(&name) || !(kind.is_dir() || kind.is_file()) {
            continue;
        }
        let end = if kind.is_dir() { "/" } else { "" };
        entries.push(Entry { path: entry.path(), key: format!("{key}{name}{end}"), is_folder: kind.is_dir() });
    }
    entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    Ok(entries)
}

/// Whether a name may be part of a key: neither metadata nor unfinished, nor what means another folder.
fn is_shown(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.ends_with(SIDECAR) && !name.ends_with(UNFINISHED)
}

/// The tag changes with the file; it is no digest, which nobody's client asks of it.
fn facts(key: String, metadata: &std::fs::Metadata) -> ObjectFacts {
    let (seconds, nanos) = (metadata.mtime(), metadata.mtime_nsec());
    ObjectFacts {
        key,
        size: metadata.len(),
        modified: seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000),
        etag: format!("{seconds:x}.{nanos:x}.{:x}", metadata.len()),
    }
}

/// The sidecar's members: `x-amz-meta-…` of the object.
fn metadata(path: &Path) -> io::Result<Vec<(String, String)>> {
    let mut sidecar = path.as_os_str().to_owned();
    sidecar.push(SIDECAR);
    let bytes = match std::fs::read(Path::new(&sidecar)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        read => read?,
    };
    let members: std::collections::BTreeMap<String, String> = serde_json::from_slice(&bytes)?;
    let plain = |text: &str| text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    let named = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    Ok(members.into_iter().filter(|(name, value)| named(name) && plain(value)).collect())
}

/// First and last byte. RULE RFC 9110 §14.2: a range that is not understood, and more than one, is no range.
fn asked_range(text: &str, size: u64) -> Result<Option<(u64, u64)>, OpError> {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|range| range.trim().split_once('-')) else {
        return Ok(None);
    };
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let range = match (first, last) {
        ("", last) => number(last).map(|length| match length {
            0 => (size, size),
            length => (size.saturating_sub(length), size.saturating_sub(1)),
        }),
        (first, "") => number(first).map(|first| (first, size.saturating_sub(1))),
        (first, last) => number(first).zip(number(last)).filter(|(first, last)| first <= last),
    };
    match range {
        Some((first, _)) if first >= size => Err(OpError::Trail(TrailRefusal::InvalidRange(size))),
        Some((first, last)) => Ok(Some((first, last.min(size - 1)))),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests;

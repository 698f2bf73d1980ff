//! Complete lines of a segment, one at a time, in bounded memory.

use std::io::{self, BufRead, Read, Seek, SeekFrom};

/// The longest line that a journal writes, without its newline.
pub const MAX_LINE: usize = 256 * 1024;

pub enum Next<'a> {
    /// Without its newline.
    Line(&'a [u8]),
    /// Bytes after the last newline.
    Partial(u64),
    /// More than `MAX_LINE` bytes without a newline.
    TooLong,
    End,
}

pub struct Lines<R> {
    reader: R,
    line: Vec<u8>,
    /// Bytes up to and with the last newline seen.
    whole: u64,
}

impl<R: BufRead> Lines<R> {
    pub fn new(reader: R) -> Self {
        Lines { reader, line: Vec::new(), whole: 0 }
    }

    #[allow(clippy::should_implement_trait)] // lends its buffer, which an `Iterator` cannot
    pub fn next(&mut self) -> io::Result<Next<'_>> {
        self.line.clear();
        let read = (&mut self.reader).take(MAX_LINE as u64 + 1).read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(Next::End);
        }
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
            self.whole += read as u64;
            return Ok(Next::Line(&self.line));
        }
        Ok(if read > MAX_LINE { Next::TooLong } else { Next::Partial(read as u64) })
    }

    pub fn whole(&self) -> u64 {
        self.whole
    }
}

impl<R: BufRead + Seek> Lines<R> {
    /// Goes back behind the last newline, for a second look at a line that was not complete.
    pub fn again(&mut self) -> io::Result<()> {
        self.reader.seek(SeekFrom::Start(self.whole)).map(drop)
    }
}

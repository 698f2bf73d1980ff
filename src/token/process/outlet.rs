//! The sending side of a worker's socket. Whoever has a frame sends it; frames that come meanwhile go with the next call.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use zeroize::Zeroizing;

/// Frames in one system call.
const TOGETHER: usize = 32;

pub(super) struct Outlet {
    pub(super) socket: UnixStream,
    flags: SendFlags,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    frames: VecDeque<Zeroizing<Vec<u8>>>,
    /// Bytes of the first frame that are sent.
    sent: usize,
    /// Somebody is sending.
    busy: bool,
}

impl Outlet {
    /// Senders wait where the other end does not read.
    pub(super) fn blocking(socket: UnixStream) -> Outlet {
        Outlet { socket, flags: SendFlags::NOSIGNAL, state: Mutex::default() }
    }

    /// Senders never wait: what does not fit stays until the next `send` or `flush`.
    pub(super) fn patient(socket: UnixStream) -> Outlet {
        Outlet { socket, flags: SendFlags::NOSIGNAL | SendFlags::DONTWAIT, state: Mutex::default() }
    }

    pub(super) fn send(&self, frame: Zeroizing<Vec<u8>>) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.frames.push_back(frame);
        if state.busy {
            return Ok(());
        }
        drop(state);
        self.flush()
    }

    /// Sends what waits.
    pub(super) fn flush(&self) -> io::Result<()> {
        loop {
            let (mut frames, mut sent) = {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                if state.busy || state.frames.is_empty() {
                    return Ok(());
                }
                state.busy = true;
                (std::mem::take(&mut state.frames), std::mem::take(&mut state.sent))
            };
            let result = self.write(&mut frames, &mut sent);
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.busy = false;
            if !frames.is_empty() {
                frames.append(&mut state.frames);
                (state.frames, state.sent) = (frames, sent);
                return result;
            }
        }
    }

    fn write(&self, frames: &mut VecDeque<Zeroizing<Vec<u8>>>, sent: &mut usize) -> io::Result<()> {
        while !frames.is_empty() {
            let slices: Vec<IoSlice<'_>> = frames
                .iter()
                .take(TOGETHER)
                .enumerate()
                .map(|(place, frame)| IoSlice::new(frame.get(if place == 0 { *sent } else { 0 }..).unwrap_or_default()))
                .collect();
            let mut count = match sendmsg(&self.socket, &slices, &mut SendAncillaryBuffer::default(), self.flags) {
                Ok(count) => count,
                Err(rustix::io::Errno::INTR) => continue,
                // The rest goes later.
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            while let Some(first) = frames.front() {
                let left = first.len().saturating_sub(*sent);
                if count < left {
                    *sent += count;
                    break;
                }
                count -= left;
                *sent = 0;
                frames.pop_front();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_does_not_fit_goes_later_and_in_order() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let outlet = Outlet::patient(ours);
        let mut expected = Vec::new();
        for number in 0..64u8 {
            expected.extend(vec![number; 30_000]);
            outlet.send(Zeroizing::new(vec![number; 30_000])).unwrap();
        }
        let mut got = vec![0; expected.len()];
        let mut end = 0;
        while end < got.len() {
            end += theirs.read(&mut got[end..]).unwrap();
            outlet.flush().unwrap();
        }
        assert!(got == expected);
    }
}

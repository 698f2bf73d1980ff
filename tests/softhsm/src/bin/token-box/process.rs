//! The token side as a local process group: where no engine answers, and where a container would be too slow.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use rustix::process::{Pid, Signal, kill_process_group};

use super::{Side, obey, print_log, unknown};

pub(crate) fn run(side: &Side) -> io::Result<()> {
    let _owner = side.place.own()?;
    let mut group = Group { side, leader: None };
    obey(|word| match word {
        "start" => group.start(),
        "pause" => group.signal(Signal::STOP),
        "unpause" => group.signal(Signal::CONT),
        "kill" => group.kill(),
        "log" => print_log(&std::fs::read(group.log())?),
        other => Err(unknown(other)),
    })
}

struct Group<'a> {
    side: &'a Side,
    leader: Option<Child>,
}

impl Group<'_> {
    fn start(&mut self) -> io::Result<()> {
        if self.leader.is_some() {
            return Err(io::Error::other("it runs"));
        }
        let log = OpenOptions::new().append(true).create(true).open(self.log())?;
        let mut command = Command::new(&self.side.entrypoint);
        command.args(self.side.arguments()).envs(self.side.environment()).process_group(0);
        command.stdin(File::open("/dev/null")?).stdout(log.try_clone()?).stderr(log);
        self.leader = Some(command.spawn()?);
        Ok(())
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let leader = self.leader.as_ref().ok_or_else(|| io::Error::other("it does not run"))?;
        // Not reaped yet, so the number is still its own.
        let group = i32::try_from(leader.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
        Ok(kill_process_group(group, signal)?)
    }

    fn kill(&mut self) -> io::Result<()> {
        self.signal(Signal::KILL)?;
        if let Some(mut leader) = self.leader.take() {
            leader.wait()?;
        }
        Ok(())
    }

    fn log(&self) -> std::path::PathBuf {
        self.side.place.root().join("log")
    }
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        if self.leader.is_some() {
            let _ = self.kill();
        }
    }
}

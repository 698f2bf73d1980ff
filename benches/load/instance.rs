//! Instances to measure: a token with N keys, the store that knows them, and a server on them. Made once, kept, and copied
//! for each run: the token to tmpfs, store and journal to the disk.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hsm_bridge::ids::KeyId;

use crate::client::Credentials;

/// Counts up when what a cached instance is changes.
const FORMAT: u32 = 1;
/// Keys that the load uses. The same number in every instance: what differs is how many others there are.
const USED: usize = 10;

pub struct Keys {
    pub symmetric: Vec<KeyId>,
    /// ECC_NIST_P256
    pub signing: KeyId,
}

impl Keys {
    pub fn read(dir: &Path) -> Keys {
        let text = std::fs::read_to_string(dir.join("keys")).expect("the instance was filled");
        let mut ids = text.lines().map(|id| id.parse().expect("a key id"));
        let signing = ids.next().expect("the signing key is named first");
        Keys { symmetric: ids.collect(), signing }
    }

    pub fn write(&self, dir: &Path) {
        let ids = std::iter::once(&self.signing).chain(&self.symmetric);
        let text: String = ids.map(|id| format!("{id}\n")).collect();
        std::fs::write(dir.join("keys"), text).expect("the instance's directory can be written");
    }

    /// Spread evenly over all of them.
    pub fn used(&self) -> Vec<KeyId> {
        let step = (self.symmetric.len() / USED).max(1);
        self.symmetric.iter().step_by(step).take(USED).copied().collect()
    }
}

/// Where instances are kept between runs, and where this run works.
pub struct Places {
    pub cache: PathBuf,
    /// On the disk.
    pub disk: PathBuf,
    /// On tmpfs.
    pub memory: PathBuf,
}

impl Places {
    pub fn new() -> Places {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let name = format!("hsm-bridge-bench-{}", std::process::id());
        let memory = Path::new("/dev/shm");
        let memory = if memory.is_dir() { memory.join(&name) } else { target.join("no-tmpfs").join(&name) };
        let places = Places { cache: target.join("bench-cache"), disk: target.join(&name), memory };
        for dir in [&places.cache, &places.disk, &places.memory] {
            std::fs::create_dir_all(dir).expect("a directory of the bench can be made");
            std::fs::set_permissions(dir, PermissionsExt::from_mode(0o700)).expect("it is ours");
        }
        places
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.disk);
        let _ = std::fs::remove_dir_all(&self.memory);
    }
}

/// An instance that is ready to be served.
pub struct Instance {
    pub keys: Keys,
    pub credentials: Credentials,
    /// State, journal and configuration.
    pub dir: PathBuf,
    pub config: PathBuf,
}

impl Instance {
    pub fn prepare(places: &Places, keys: usize, workers: Option<usize>) -> Instance {
        let cached = places.cache.join(format!("keys-{keys}-{FORMAT}"));
        if !cached.join("keys").exists() {
            make(places, keys, &cached);
        }
        let (dir, memory) = (places.disk.join(format!("keys-{keys}")), places.memory.join(format!("keys-{keys}")));
        std::fs::create_dir(&memory).expect("the run's directory is new");
        copy(&cached, &dir);
        copy(&cached.join("tokens"), &memory.join("tokens"));
        configure(&dir, &memory.join("tokens"), workers);
        let text = std::fs::read_to_string(dir.join("credentials")).expect("`dev` wrote it");
        let (id, secret) = text.trim().split_once(' ').expect("id and secret");
        let credentials = Credentials { id: id.to_owned(), secret: secret.to_owned(), region: "us-east-1".to_owned() };
        Instance { keys: Keys::read(&dir), credentials, config: dir.join("bench.toml"), dir }
    }

    pub fn serve(&self) -> Server {
        let log = std::fs::File::create(self.dir.join("log")).expect("the run's directory can be written");
        let child = Command::new(program())
            .args(["serve", "--config"])
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the server starts");
        let mut server = Server { child, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let log = self.dir.join("log");
        server.address = wait_for("the server", Duration::from_secs(120), || {
            assert!(server.child.try_wait().expect("a child").is_none(), "the server ended: {}", show(&log));
            show(&log).lines().find(|line| line.ends_with("serving") || line.contains(" serving "))?;
            show(&log).split_once("address=")?.1.split_whitespace().next()?.parse().ok()
        });
        server
    }

    /// This program in another role, on this instance.
    pub fn role(&self, role: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("a program has a path"));
        command.arg(role).arg(&self.dir).env("SOFTHSM2_CONF", self.dir.join("softhsm2.conf"));
        command
    }
}

/// A running server; ended when dropped.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
}

impl Server {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// The server of this build, or another one to measure.
fn program() -> PathBuf {
    std::env::var_os("HSM_BRIDGE_BIN").map_or_else(|| env!("CARGO_BIN_EXE_hsm-bridge").into(), PathBuf::from)
}

fn end(child: &mut Child) {
    if let Some(pid) = rustix::process::Pid::from_raw(child.id().cast_signed()) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    let _ = child.wait();
}

fn make(places: &Places, keys: usize, cached: &Path) {
    eprintln!("making an instance with {keys} keys (kept in {})", cached.display());
    let new = places.memory.join(format!("new-{keys}"));
    let env = places.memory.join("env");
    let _ = std::fs::remove_file(&env);
    let mut dev = Command::new(program())
        .args(["dev", "--listen", "127.0.0.1:0", "--dir"])
        .arg(&new)
        .arg("--env-file")
        .arg(&env)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("`dev` starts");
    wait_for("`dev`", Duration::from_secs(60), || {
        assert!(dev.try_wait().expect("a child").is_none(), "`dev` ended");
        env.exists().then_some(())
    });
    end(&mut dev);
    configure(&new, &new.join("tokens"), None);
    let filled = Command::new(std::env::current_exe().expect("a program has a path"))
        .arg("fill")
        .arg(&new)
        .arg(keys.to_string())
        .env("SOFTHSM2_CONF", new.join("softhsm2.conf"))
        .status()
        .expect("this program starts");
    assert!(filled.success(), "filling failed");
    let part = cached.with_extension("part");
    let _ = std::fs::remove_dir_all(&part);
    copy(&new, &part);
    std::fs::rename(&part, cached).expect("the cache is on one file system");
    std::fs::remove_dir_all(&new).expect("it is ours");
}

/// SoftHSM's configuration and the server's, for where the files are now.
fn configure(dir: &Path, tokens: &Path, workers: Option<usize>) {
    let softhsm = dir.join("softhsm2.conf");
    let text = format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display());
    std::fs::write(&softhsm, text).expect("the instance's directory can be written");
    let dev = std::fs::read_to_string(dir.join("hsm-bridge.toml")).expect("`dev` wrote it");
    let module = dev.lines().find(|line| line.starts_with("module = ")).expect("`dev` names the module");
    let text = format!(
        "[server]\nstate_dir = {:?}\naccount = \"111122223333\"\nregion = \"us-east-1\"\n\n[[listener]]\naddress = \
         \"127.0.0.1:0\"\n\n[metrics]\naddress = \"off\"\n\n[token]\n{module}\nlabel = \"hsm-bridge-dev\"\npin_file = \
         {:?}\npin_marks = {:?}\nenvironment = {{ SOFTHSM2_CONF = {softhsm:?} }}\n{}",
        dir.join("state"),
        dir.join("pin"),
        dir.join("pin-marks"),
        workers.map(|n| format!("workers = {n}\n")).unwrap_or_default(),
    );
    std::fs::write(dir.join("bench.toml"), text).expect("the instance's directory can be written");
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp is there");
    assert!(status.success(), "cp failed");
}

fn show(log: &Path) -> String {
    std::fs::read_to_string(log).unwrap_or_default()
}

fn wait_for<T>(what: &str, patience: Duration, mut found: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    while start.elapsed() < patience {
        if let Some(found) = found() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{what} was not ready in time");
}

//! The token side in a container without a network: what it shares with the host is the place.

use std::collections::HashMap;
use std::path::Path;
use std::{env, fs, io, process};

use testcontainers::bollard::query_parameters::{
    KillContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};
use testcontainers::core::client::docker_client_instance;
use testcontainers::core::{AccessMode, Mount};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, ContainerRequest, GenericImage, ImageExt};
use tokio::runtime::Runtime;

use super::{Side, engine, obey, print_log, unknown};

/// Names who started a container: `PID START`, as in `/proc/PID/stat`.
const OWNER: &str = "hsm-bridge.token-box.owner";

pub(crate) fn run(side: &Side) -> io::Result<()> {
    let _owner = side.place.own()?;
    let host = engine::reach(&side.place.root().join("engine.sock"))?;
    become_client_of(&host);
    let runtime = Runtime::new()?;
    runtime.block_on(sweep())?;
    let mut container = None;
    let done = obey(|word| runtime.block_on(act(side, &mut container, word)));
    // Removed here and not by its destructor, so that the exit waits for it.
    if let Some(container) = container {
        runtime.block_on(container.rm()).map_err(failed)?;
    }
    done
}

#[allow(unsafe_code, reason = "the environment is changed; nothing else reads it yet")]
fn become_client_of(host: &str) {
    // SAFETY: the only other thread is the one of `engine`, which does not look at the environment.
    unsafe { env::set_var("DOCKER_HOST", host) };
}

async fn act(side: &Side, container: &mut Option<ContainerAsync<GenericImage>>, word: &str) -> io::Result<()> {
    if let ("start", None) = (word, &container) {
        *container = Some(request(side)?.start().await.map_err(failed)?);
        return Ok(());
    }
    let container = container.as_ref().ok_or_else(|| io::Error::other("it was never started"))?;
    match word {
        "start" => container.start().await.map_err(failed),
        "pause" => container.pause().await.map_err(failed),
        "unpause" => container.unpause().await.map_err(failed),
        "kill" => {
            // `testcontainers` itself can only stop, which asks first.
            let options = KillContainerOptionsBuilder::new().signal("SIGKILL").build();
            let engine = docker_client_instance().await.map_err(failed)?;
            engine.kill_container(container.id(), Some(options)).await.map_err(failed)?;
            while container.is_running().await.map_err(failed)? {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            Ok(())
        }
        "log" => {
            let out = container.stdout_to_vec().await.map_err(failed)?;
            let err = container.stderr_to_vec().await.map_err(failed)?;
            print_log(&[out, err].concat())
        }
        other => Err(unknown(other)),
    }
}

fn request(side: &Side) -> io::Result<ContainerRequest<GenericImage>> {
    let image = env::var("TOKEN_IMAGE").map_err(|_| io::Error::other("TOKEN_IMAGE names no image"))?;
    let (name, tag) = image.split_once(':').ok_or_else(|| io::Error::other("TOKEN_IMAGE has no tag"))?;
    let bind = |path: &Path, mode| {
        let path = path.display().to_string();
        Mount::bind_mount(path.clone(), path).with_access_mode(mode)
    };
    let mut request = GenericImage::new(name, tag)
        .with_entrypoint(&side.entrypoint.display().to_string())
        .with_cmd(side.arguments())
        .with_network("none")
        .with_readonly_rootfs(true)
        .with_cap_drop("ALL")
        .with_security_opt("no-new-privileges")
        // As whoever runs this: socket, key and token are that user's.
        .with_user(format!("{}:{}", rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()))
        .with_label(OWNER, owner(process::id())?)
        .with_mount(bind(side.place.root(), AccessMode::ReadWrite));
    // Programs are mounted, not part of the image: a rebuilt program needs no new image.
    let programs = [&side.entrypoint, &side.server].into_iter().map(|path| path.display().to_string());
    for program in programs.chain(side.worker.first().filter(|path| path.starts_with('/')).cloned()) {
        if !program.starts_with("/usr/") && !program.starts_with("/bin/") {
            request = request.with_mount(bind(Path::new(&program), AccessMode::ReadOnly));
        }
    }
    Ok(side.environment().into_iter().fold(request, |request, (name, value)| request.with_env_var(name, value)))
}

/// Removes the containers of runs that were killed.
async fn sweep() -> io::Result<()> {
    let engine = docker_client_instance().await.map_err(failed)?;
    let filters = HashMap::from([("label", vec![OWNER])]);
    let all = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    for container in engine.list_containers(Some(all)).await.map_err(failed)? {
        let labels = container.labels.unwrap_or_default();
        let (Some(id), Some(label)) = (container.id, labels.get(OWNER)) else { continue };
        let pid = label.split(' ').next().and_then(|pid| pid.parse().ok());
        if pid.and_then(|pid| owner(pid).ok()).as_ref() == Some(label) {
            continue;
        }
        eprintln!("token-box: removing container {id}, left by {label}");
        let force = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        // Another run may sweep at the same time.
        if let Err(error) = engine.remove_container(&id, Some(force)).await {
            eprintln!("token-box: {error}");
        }
    }
    Ok(())
}

/// A process by its number and its start: numbers are used again.
fn owner(pid: u32) -> io::Result<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field, a name in parentheses, may have anything in it; the start is the 22nd.
    let start = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(19));
    start.map(|start| format!("{pid} {start}")).ok_or_else(|| io::Error::other("a strange /proc"))
}

fn failed(error: impl std::error::Error) -> io::Error {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    io::Error::other(text)
}

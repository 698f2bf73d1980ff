//! Resident memory: of the server with many keys, of a process that has only the token open, and of the server after many
//! more requests.

use std::time::Duration;

use crate::client::{Connection, load};
use crate::instance::{Instance, Places};
use crate::{Options, Yardstick, process, requests};

const CONNECTIONS: usize = 16;
/// Longer than any run: the number of requests ends it.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Requests are signed for 15 minutes.
const SIGNED_FOR: u64 = 100_000;

pub async fn measure(places: &Places, options: &Options) -> std::io::Result<()> {
    let keys = *options.keys.iter().max().expect("there is a size");
    let instance = Instance::prepare(places, keys, options.workers);
    let mib = |kib: f64| kib / 1024.0;

    let mut raw = Yardstick::new(&instance);
    let (raw_open, _) = raw.line("resident");
    let (raw_used, _) = raw.line("touch");
    raw.end();
    println!(
        "the token alone, {keys} keys: {:.1} MiB open, {:.1} MiB after each key was used",
        mib(raw_open),
        mib(raw_used)
    );

    let server = instance.serve();
    let start = process::resident(server.pid());
    println!("the server: {:.1} MiB after the start", mib(start));
    let mut first = Connection::open(server.address).await?;
    let every = requests(&instance, &server, &mut first, "Encrypt", &instance.keys.symmetric).await?;
    for request in &every {
        first.ask(request).await?;
    }
    let used = process::resident(server.pid());
    println!("the server: {:.1} MiB after each key was used once", mib(used));
    println!("own share: {:.2} KiB a key", (used - raw_used) / keys as f64);

    // Opened only now: the server closes connections that are idle from the start.
    let mut open = vec![first];
    while open.len() < CONNECTIONS {
        open.push(Connection::open(server.address).await?);
    }
    let mut sent = 0;
    let warm_up = options.requests / 20;
    let mut before = 0.0;
    while sent < warm_up + options.requests {
        let next = (warm_up + options.requests - sent).min(if sent < warm_up { warm_up } else { SIGNED_FOR });
        let signed = requests(&instance, &server, &mut open[0], "Encrypt", &instance.keys.used()).await?;
        sent += load(&mut open, &signed, PATIENCE, next).await?.requests;
        let now = process::resident(server.pid());
        if sent <= warm_up {
            before = now;
        }
        println!("the server: {:.1} MiB after {sent} more requests", mib(now));
    }
    let after = process::resident(server.pid());
    println!("{} requests grew it by {:.2} MiB", options.requests, mib(after - before));
    Ok(())
}

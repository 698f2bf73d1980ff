//! `token reconcile` beside what it cannot do without: one enumeration and one attribute read per object, made bare by
//! another process on the same token, in turns with it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use crate::instance::{Instance, Places};
use crate::{Options, Yardstick, median, process};

struct Sample {
    enumeration: f64,
    attributes: f64,
    reconcile: f64,
    /// Of the server, seconds.
    cpu: f64,
}

pub fn measure(places: &Places, options: &Options) -> std::io::Result<()> {
    println!("{} rounds, medians; seconds\n", options.rounds);
    println!(
        "{:>8}{:>14}{:>14}{:>14}{:>14}{:>10}{:>10}",
        "keys", "enumeration", "attributes", "both bare", "reconcile", "ratio", "CPU s"
    );
    for keys in &options.keys {
        let instance = Instance::prepare(places, *keys, options.workers);
        let server = instance.serve();
        let mut raw = Yardstick::new(&instance);
        // The first reading of a file is dearer than the others, for both.
        raw.line("inventory");
        reconcile(&instance)?;
        let mut samples = Vec::new();
        for _ in 0..options.rounds {
            let (enumeration, attributes) = raw.line("inventory");
            let (start, cpu) = (Instant::now(), process::cpu_micros(server.pid()));
            reconcile(&instance)?;
            let reconcile = start.elapsed().as_secs_f64();
            let cpu = (process::cpu_micros(server.pid()) - cpu) / 1e6;
            samples.push(Sample { enumeration, attributes, reconcile, cpu });
        }
        raw.end();
        let of = |field: fn(&Sample) -> f64| median(samples.iter().map(field));
        println!(
            "{keys:>8}{:>14.3}{:>14.3}{:>14.3}{:>14.3}{:>10.2}{:>10.3}",
            of(|s| s.enumeration),
            of(|s| s.attributes),
            of(|s| s.enumeration + s.attributes),
            of(|s| s.reconcile),
            of(|s| s.reconcile / (s.enumeration + s.attributes)),
            of(|s| s.cpu),
        );
    }
    Ok(())
}

/// One command over the operator's socket; the report has to say that all is well.
fn reconcile(instance: &Instance) -> std::io::Result<()> {
    let mut link = UnixStream::connect(instance.dir.join("state").join("operator.sock"))?;
    link.write_all(b"{\"command\":\"token-reconcile\",\"token\":null}\n")?;
    for line in BufReader::new(link).lines() {
        let line = line?;
        if line.starts_with("{\"ok\"") {
            assert!(line.contains("\"ok\":true"), "{line}");
            return Ok(());
        }
        assert!(line.starts_with("{\"progress\""), "{line}");
    }
    Err(std::io::Error::other("the server did not answer"))
}

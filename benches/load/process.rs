//! What the system says of a process: CPU time, memory.

use std::path::Path;

/// A process and those that it started: the token's worker process is a part of the service.
fn family(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs").flatten();
    let lists = tasks.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    let started: Vec<u32> = lists.flat_map(|list| list.split(' ').flat_map(str::parse).collect::<Vec<_>>()).collect();
    std::iter::once(pid).chain(started).collect()
}

/// CPU time of all threads of a process and its workers that live, in microseconds.
pub fn cpu_micros(pid: u32) -> f64 {
    family(pid).into_iter().map(cpu_of_one).sum()
}

/// User and system, `/proc/PID/task/*/schedstat`.
fn cpu_of_one(pid: u32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    let micros = |task: &Path| {
        let text = std::fs::read_to_string(task.join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok().map(|nanos| nanos / 1000.0)
    };
    tasks.filter_map(|task| micros(&task.ok()?.path())).sum()
}

/// CPU time of the calling thread, in microseconds.
pub fn own_thread_micros() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel keeps scheduler statistics");
    text.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).expect("nanoseconds") / 1000.0
}

/// Resident memory of a process and its workers, KiB. Pages that they share are counted in each.
pub fn resident(pid: u32) -> f64 {
    family(pid).into_iter().map(resident_of_one).sum()
}

fn resident_of_one(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number of kB")
}

pub fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split(' ').take(1).collect();
    format!(
        "{cpus} CPUs ({}), Linux {}, load average before the run {}",
        model.trim_start_matches([' ', '\t', ':']),
        kernel.trim(),
        load.concat()
    )
}

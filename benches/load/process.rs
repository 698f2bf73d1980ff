//! What the system says of a process: CPU time, memory.

use std::path::Path;

/// CPU time of all threads of a process that live, in microseconds (user and system, `/proc/PID/task/*/schedstat`).
pub fn cpu_micros(pid: u32) -> f64 {
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

/// Resident memory, KiB.
pub fn resident(pid: u32) -> f64 {
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

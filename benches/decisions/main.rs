//! What an authorization decision costs, with few users, keys and grants in the store and with many, and the memory they take.
//! Numbers to look at, not a test: `scripts/bench --decisions`. docs/performance.md has some.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a bench that goes wrong may stop")]
#![allow(clippy::print_stdout)]

mod cases;
mod evaluator;
mod population;
#[path = "../load/process.rs"]
#[allow(dead_code, reason = "the other bench uses the rest")]
mod process;
mod taken;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use cases::{World, cases};
use population::{Stage, fill, open};
use tempfile::TempDir;

const HELP: &str = "\
Measures what an authorization decision costs. Needs no token.

Usage: scripts/bench --decisions [--smoke] [OPTIONS]

  --smoke      seconds, few keys, debug build: that the bench works and decides right, not how fast
  --keys A,B   sizes of the populations: as many users, ten times as many grants (10,100,1000,10000)
  --times N    decisions of each kind in a round (20000)
  --rounds N   rounds over everything; medians are printed (5)
";

struct Options {
    keys: Vec<usize>,
    times: usize,
    rounds: usize,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse().unwrap_or_else(|_| wrong(text));
    match words.as_slice() {
        ["child", "fill", state, stage, n] => child_fill(Path::new(state), stage, number(n)),
        ["child", "open", state] => child_open(Path::new(state)),
        ["child", "decide", state, n, times] => child_decide(Path::new(state), number(n), number(times)),
        words if words.contains(&"--help") => print!("{HELP}"),
        words => run(&options(words)),
    }
}

fn options(words: &[&str]) -> Options {
    let smoke = words.contains(&"--smoke");
    let mut options = Options {
        keys: if smoke { vec![10, 100] } else { vec![10, 100, 1_000, 10_000] },
        times: if smoke { 200 } else { 20_000 },
        rounds: if smoke { 1 } else { 5 },
    };
    let mut words = words.iter().filter(|word| !["--smoke", "--decisions"].contains(word));
    while let Some(word) = words.next() {
        let value = words.next().copied().unwrap_or_else(|| wrong(word));
        let number = |text: &str| text.parse().ok().filter(|n| *n > 0).unwrap_or_else(|| wrong(text));
        match *word {
            "--keys" => options.keys = value.split(',').map(number).collect(),
            "--times" => options.times = number(value),
            "--rounds" => options.rounds = number(value),
            _ => wrong(word),
        }
    }
    // Below ten there is not one of each kind.
    if options.keys.iter().any(|n| *n < 10) { wrong("--keys") } else { options }
}

fn wrong(word: &str) -> ! {
    eprintln!("`{word}`?\n\n{HELP}");
    std::process::exit(2);
}

/// A process for each thing that is measured: the memory of one is not what another left behind.
fn run(options: &Options) {
    println!("{}\n", process::machine());
    evaluator::measure(options.times * 10);

    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory } else { Path::new(env!("CARGO_TARGET_TMPDIR")) };
    let states: Vec<TempDir> = options.keys.iter().map(|_| tempfile::tempdir_in(place).unwrap()).collect();
    let sizes: Vec<(usize, &Path)> = options.keys.iter().copied().zip(states.iter().map(TempDir::path)).collect();
    show_memory(&sizes);

    // Sizes in turn in each round: other work on the machine disturbs all of them.
    let mut said: Vec<Said> = sizes.iter().map(|_| Said::default()).collect();
    for _ in 0..options.rounds {
        for ((n, state), said) in sizes.iter().zip(&mut said) {
            said.add(&child(&["decide", text(state), &n.to_string(), &options.times.to_string()]));
        }
    }
    show_decisions("the same four callers and keys", "few", &options.keys, &said);
    show_decisions("all callers and keys in turn", "all", &options.keys, &said);
    show_rest(&options.keys, &said);
}

/// Resident memory and the time to open the store, stage by stage.
fn show_memory(sizes: &[(usize, &Path)]) {
    println!("\nin the store            keys  open, ms   resident before, KiB   after   bytes for each one more");
    for (n, state) in sizes {
        let mut before = 0.0;
        for (stage, name) in Stage::ALL {
            child(&["fill", text(state), name, &n.to_string()]);
            let opened = Said::from(&child(&["open", text(state)]));
            let (ms, bare, resident) = (opened.value("ms"), opened.value("bare"), opened.value("resident"));
            let count = if stage == Stage::Grants { population::GRANTS_PER_KEY * n } else { *n };
            let each = match stage {
                Stage::Base => String::new(),
                _ => format!("{:.0}", (resident - bare - before) * 1024.0 / count as f64),
            };
            println!("{:18} {n:>9} {ms:>9.1} {bare:>22.0} {resident:>7.0} {each:>25}", format!("and {name}"));
            before = resident - bare;
        }
    }
}

fn show_decisions(what: &str, which: &str, keys: &[usize], said: &[Said]) {
    print!("\n{what}: median (p99) us {:>width$}", "", width = 62_usize.saturating_sub(what.len() + 18));
    keys.iter().for_each(|n| print!("{:>16}", format!("{n} keys")));
    println!("{:>10}", "ratio");
    let (mut outside, mut slowest) = (Vec::new(), 0.0_f64);
    for case in cases(10) {
        print!("{:62}", case.what);
        let of = |said: &Said, value: &str| said.value(&format!("{which} {value} {}", case.what));
        for said in said {
            print!("{:>16}", format!("{:.2} ({:.1})", of(said, "median"), of(said, "p99")));
            slowest = slowest.max(of(said, "median"));
        }
        let (Some(first), Some(last)) = (said.first(), said.last()) else { return };
        let ratio = of(last, "median") / of(first, "median");
        if !(0.8..=1.25).contains(&ratio) {
            outside.push(case.what);
        }
        println!("{ratio:>10.2}");
    }
    match outside.as_slice() {
        [] => println!("all ratios are within 0.8 to 1.25"),
        outside => println!("outside 0.8 to 1.25: {}", outside.join("; ")),
    }
    println!("the slowest median is {slowest:.2} us; the aim is less than 50");
}

fn show_rest(keys: &[usize], said: &[Said]) {
    println!();
    let rows = [
        ("first decision on a key, reads its policy, us", "key"),
        ("first decision of a user, us", "user"),
        ("one more grant: a transaction on tmpfs, us", "write"),
    ];
    print!("{:62}", "");
    keys.iter().for_each(|n| print!("{:>16}", format!("{n} keys")));
    println!();
    for (what, name) in rows {
        print!("{what:62}");
        for said in said {
            let of = |value: &str| said.value(&format!("{name} {value}"));
            print!("{:>16}", format!("{:.1} ({:.1})", of("median"), of("p99")));
        }
        println!();
    }
    print!("{:62}", "memory of the policies that were read, bytes for each key");
    for (n, said) in keys.iter().zip(said) {
        print!("{:>16.0}", said.value("policies") * 1024.0 / *n as f64);
    }
    println!();
}

/// What children printed: `value<tab>name`, over the rounds.
#[derive(Default)]
struct Said(BTreeMap<String, Vec<f64>>);

impl Said {
    fn from(text: &str) -> Said {
        let mut said = Said::default();
        said.add(text);
        said
    }

    fn add(&mut self, text: &str) {
        for (value, name) in text.lines().filter_map(|line| line.split_once('\t')) {
            self.0.entry(name.to_owned()).or_default().push(value.parse().unwrap());
        }
    }

    fn value(&self, name: &str) -> f64 {
        taken::median(self.0.get(name).cloned().unwrap_or_else(|| panic!("no child said `{name}`")))
    }
}

fn child(arguments: &[&str]) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .arg("child")
        .args(arguments)
        .stderr(std::process::Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?} ended with {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn say(name: &str, value: f64) {
    println!("{value}\t{name}");
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn child_fill(state: &Path, stage: &str, n: usize) {
    let (stage, _) = Stage::ALL.into_iter().find(|(_, name)| *name == stage).unwrap();
    block_on(fill(state, stage, n));
}

fn child_open(state: &Path) {
    block_on(async {
        let bare = process::resident(std::process::id());
        let start = Instant::now();
        let store = open(state).await;
        say("ms", start.elapsed().as_secs_f64() * 1000.0);
        say("bare", bare);
        say("resident", process::resident(std::process::id()));
        store.close().await.unwrap();
    });
}

fn child_decide(state: &Path, n: usize, times: usize) {
    block_on(async {
        let world = World::new(open(state).await, n);
        let resident = process::resident(std::process::id());
        let (keys, users) = world.read_all_policies();
        say("policies", process::resident(std::process::id()) - resident);
        let writes = world.grant_writes(times.div_ceil(40)).await;
        for (name, cost) in [("key", keys), ("user", users), ("write", writes)] {
            say(&format!("{name} median"), cost.median);
            say(&format!("{name} p99"), cost.p99);
        }
        for case in cases(n) {
            let (few, all) = world.measure(&case, times);
            for (which, cost) in [("few", few), ("all", all)] {
                say(&format!("{which} median {}", case.what), cost.median);
                say(&format!("{which} p99 {}", case.what), cost.p99);
            }
        }
    });
}

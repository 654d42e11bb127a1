//! Every kernel on the tier of this process, beside the most that its processors do: a table, or JSON lines.
//!
//! ```sh
//! cargo run --release --manifest-path bench/kernels/Cargo.toml -- [--threads N] [--only NAME] [--json]
//! ```

use std::time::Instant;

use lowrank_bench::ceiling::{self, Operands};
use lowrank_bench::work::{Cost, Work, all};
use lowrank_kernels::{Compute, Tier};

/// How long a kernel runs before it is timed, and is timed.
const WARM_UP: f64 = 0.1;
const TIMED: f64 = 0.4;

struct Options {
    threads: usize,
    only: String,
    json: bool,
}

fn options() -> Result<Options, String> {
    let mut options = Options { threads: 0, only: String::new(), json: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--threads" => {
                options.threads = value()?.parse().map_err(|error| format!("--threads: {error}"))?
            }
            "--only" => options.only = value()?,
            "--json" => options.json = true,
            _ => {
                return Err(format!(
                    "unknown argument {argument}; there are --threads N, --only NAME, --json"
                ));
            }
        }
    }
    Ok(options)
}

fn main() -> Result<(), String> {
    let options = options()?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build_global();
    pool.map_err(|error| error.to_string())?;
    let tier = Tier::from_env().map_err(|error| error.to_string())?;
    let bandwidth = ceiling::bytes();
    if !options.json {
        let threads = rayon::current_num_threads();
        println!("tier {}, {threads} threads, {:.1} GB/s through memory", tier.kernels(), bandwidth / 1e9);
    }
    for (compute, name_of_type) in [(Compute::F32, "f32"), (Compute::Bf16, "bf16")] {
        let peak = |operands| ceiling::operations(tier, compute, operands);
        let (mut floats, mut integers) = (peak(Operands::Floats), peak(Operands::Integers));
        if !options.json {
            let shown = |peak: Option<f64>, unit| {
                peak.map_or("not known here".to_owned(), |peak| format!("{:.1} {unit}", peak / 1e9))
            };
            let (floats, integers) = (shown(floats, "GFLOP/s"), shown(integers, "GOP/s"));
            println!("\n{name_of_type}: {floats} in registers, int8: {integers}");
        }
        for mut work in all(compute).into_iter().filter(|work| work.name.contains(&options.only)) {
            let seconds = seconds(&mut work);
            let (rate, unit, most) = match work.cost {
                Cost::Operations(count, operands) => {
                    let (most, unit) = match operands {
                        Operands::Floats => (&mut floats, "GFLOP/s"),
                        Operands::Integers => (&mut integers, "GOP/s"),
                    };
                    // Another process may have had a part of the processors before.
                    *most = most.zip(peak(operands)).map(|(most, now)| most.max(now));
                    (count / seconds, unit, *most)
                }
                Cost::Bytes(bytes) => (bytes / seconds, "GB/s", Some(bandwidth)),
            };
            let part = most.map(|most| rate / most);
            let name = &work.name;
            if options.json {
                let part = part.map_or("null".to_owned(), |part| format!("{part:.4}"));
                let tier = tier.to_string();
                println!(
                    "{{\"tier\":\"{tier}\",\"compute\":\"{name_of_type}\",\"kernel\":\"{name}\",\"seconds\":{seconds:e},\
                     \"rate\":{rate:e},\"unit\":\"{}\",\"of_ceiling\":{part}}}",
                    &unit[1..]
                );
            } else {
                let part = part.map_or(String::new(), |part| format!("{:.0} %", 100.0 * part));
                println!("  {name:34} {:9.3} ms {:8.1} {unit:7} {part:>6}", 1e3 * seconds, rate / 1e9);
            }
        }
    }
    Ok(())
}

/// The median of the time that a kernel takes.
fn seconds(work: &mut Work) -> f64 {
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < WARM_UP {
        (work.run)();
    }
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < 5 || start.elapsed().as_secs_f64() < TIMED {
        let one = Instant::now();
        (work.run)();
        times.push(one.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

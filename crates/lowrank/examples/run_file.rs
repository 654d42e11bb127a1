//! Trains what a run file says and prints the losses: `cargo run --release --example run_file -- RUN.toml`.

use std::sync::atomic::AtomicBool;

use lowrank::data::Scores;
use lowrank::train::{Observer, RunFile, RunOptions, StepReport, run};

struct Print;

impl Observer for Print {
    fn step(&mut self, report: &StepReport) {
        if report.step.is_multiple_of(10) {
            println!("step {} of {}: loss {:.4}", report.step, report.total_steps, report.result.loss);
        }
    }

    fn evaluated(&mut self, step: usize, scores: &Scores) {
        println!("step {step}: {scores:?}");
    }

    fn note(&mut self, text: &str) {
        println!("{text}");
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: run_file RUN.toml")?;
    let options = RunOptions { overwrite: true, ..RunOptions::default() };
    let summary = run(&RunFile::read(path)?, options, &mut Print, &AtomicBool::new(false))?;
    println!("{summary:#?}");
    Ok(())
}

//! `lowrank adapter combine`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use lowrank::adapter::tools::{self, CombineOptions, MajoritySign};

use crate::arguments::Global;
use crate::downloads::Downloads;
use crate::failure::{Failure, Result};
use crate::output::Output;

const EXAMPLES: &str = "\
Examples:
  lowrank adapter combine runs/formal runs/short --method cat --out both
  lowrank adapter combine runs/formal=0.7 runs/short=0.3 --method svd --rank 16 \\
      --out both
  lowrank adapter combine a b c --method ties --density 0.2 --out merged";

/// Write one adapter that does what several do, each times its weight
///
/// cat is the sum itself, of the sum of the ranks, and svd its best approximation of a rank. All other methods, PEFT's of
/// the same names, are something else than the sum: the report says how far each layer is from it. A head, a module to
/// save or a bias must be the same in all adapters that have it.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(override_usage = "lowrank adapter combine A[=WEIGHT]... --method M --out DIR")]
pub struct Arguments {
    /// PEFT adapters, folders or Hub ids, each perhaps with a weight [default: 1]
    #[arg(value_name = "A[=WEIGHT]", required = true)]
    adapters: Vec<String>,
    /// linear, cat, svd, ties, dare_linear, dare_ties, magnitude_prune, or one of
    /// the last four with _svd
    #[arg(long, value_name = "METHOD")]
    method: String,
    /// Part of the elements that ties, dare and magnitude_prune keep
    #[arg(long, value_name = "D")]
    density: Option<f64>,
    /// svd and those with _svd: the rank [default: the largest of the layer]
    #[arg(long, value_name = "R")]
    rank: Option<usize>,
    /// ties: whether the sign of the sum decides, or that of more adapters
    #[arg(long, value_enum, value_name = "HOW", default_value = "total")]
    majority_sign_method: SignWord,
    /// dare: of what is left out
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// How the sign of most is found.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum SignWord {
    Total,
    Frequency,
}

/// Runs the command.
pub fn run(arguments: Arguments, global: Global) -> Result {
    let _downloads = Downloads::show(None);
    let adapters = arguments.adapters.iter().map(|text| weighted(text)).collect::<Result<Vec<_>>>()?;
    let report = tools::combine(&CombineOptions {
        adapters: &adapters,
        method: arguments.method.parse()?,
        density: arguments.density,
        rank: arguments.rank,
        majority_sign: match arguments.majority_sign_method {
            SignWord::Total => MajoritySign::Total,
            SignWord::Frequency => MajoritySign::Frequency,
        },
        seed: arguments.seed,
        out: &arguments.out,
    })?;
    Output::new(global.json).result(&report, &report)
}

/// Reads `runs/formal=0.7`. A folder's own name may have an equals sign in it.
fn weighted(text: &str) -> Result<(String, f64)> {
    match text.rsplit_once('=') {
        Some((name, weight)) if !std::path::Path::new(text).is_dir() => match weight.parse() {
            Ok(weight) => Ok((name.to_owned(), weight)),
            Err(_) => {
                Err(Failure::usage(format!("{text}: {weight:?} is no weight; one is written as {name}=0.5")))
            }
        },
        _ => Ok((text.to_owned(), 1.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_follows_the_last_equals_sign_and_is_one_where_there_is_none() {
        assert_eq!(weighted("runs/a").unwrap(), ("runs/a".to_owned(), 1.0));
        assert_eq!(weighted("runs/r=8=-0.5").unwrap(), ("runs/r=8".to_owned(), -0.5));
        assert!(weighted("runs/a=b").is_err());
    }
}

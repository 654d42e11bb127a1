//! `lowrank rank`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use lowrank::analysis::plot::{self, Kind, Measure};
use lowrank::analysis::{self, RankOptions, Side, Tolerance};

use crate::arguments::Global;
use crate::counted::Counted;
use crate::downloads::Downloads;
use crate::failure::Result;
use crate::output::Output;
use crate::place;

const EXAMPLES: &str = "\
Examples:
  lowrank rank model.safetensors
  lowrank rank roberta-base/ --plot ranks.png --kind heatmap
  lowrank rank model.safetensors --tensor classifier.weight --approximate 8
  lowrank rank runs/sst2 --base roberta-base --csv sst2.csv
  lowrank rank runs/sst2 --with runs/cola --plot overlap.svg --kind heatmap";

/// Show the rank of matrices: singular values, energy, low-rank approximations
///
/// Of a safetensors file, of a model folder, or of an adapter, whose products are analysed from their factors. Vectors
/// are left out, and a tensor of more than two dimensions is a matrix of the first against all others, but each expert of
/// a mixture's stack is one, NAME[0], NAME[1] and so on.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Safetensors file, model folder or adapter folder
    #[arg(value_name = "FILE.safetensors")]
    file: PathBuf,
    /// Look at this tensor, stack of experts, expert of one (NAME[3]) or module of an
    /// adapter alone; may be repeated [default: all]
    #[arg(long = "tensor", value_name = "NAME")]
    tensors: Vec<String>,
    /// Count singular values above this value
    /// [default: max(M, N) x epsilon x the largest, as PyTorch and NumPy]
    #[arg(long, value_name = "X", conflicts_with = "rtol")]
    tol: Option<f64>,
    /// Count singular values above this part of the largest
    #[arg(long, value_name = "X")]
    rtol: Option<f64>,
    /// Show the rank that keeps this part of the energy, the sum of the squares
    #[arg(long, value_name = "X", default_value_t = 0.9)]
    energy: f64,
    /// Show what the best approximation of rank K keeps, and how far it is off
    #[arg(long, value_name = "K")]
    approximate: Option<usize>,
    /// Write the factors of these approximations, NAME.left and NAME.right
    #[arg(long, value_name = "FILE.safetensors", requires = "approximate")]
    out: Option<PathBuf>,
    /// Show how an adapter's subspaces overlap with those of this one
    #[arg(long, value_name = "ADAPTER")]
    with: Option<PathBuf>,
    /// Which directions are compared: the right ones of A, or the left ones of B
    #[arg(long, value_enum, value_name = "SIDE", default_value = "right", requires = "with")]
    side: SideWord,
    /// Show where an adapter lies in the spectrum of this base model: a folder in
    /// Hugging Face layout, or a Hub id
    #[arg(long, value_name = "M")]
    base: Option<String>,
    /// Write the table, a line for each matrix
    #[arg(long, value_name = "FILE.csv")]
    csv: Option<PathBuf>,
    /// Write all singular values, a line for each
    #[arg(long, value_name = "FILE.csv")]
    values: Option<PathBuf>,
    /// Draw a plot
    #[arg(long, value_name = "FILE.svg|FILE.png")]
    plot: Option<PathBuf>,
    /// What the plot shows
    #[arg(long, value_enum, value_name = "KIND", default_value = "spectrum", requires = "plot")]
    kind: KindWord,
    /// Value of each cell of a heat map
    /// [default: overlap, amplification or stable-rank, as there is]
    #[arg(long, value_enum, value_name = "VALUE", requires = "plot")]
    measure: Option<MeasureWord>,
}

/// Directions to compare.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum SideWord {
    Right,
    Left,
}

/// What a plot shows.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum KindWord {
    Spectrum,
    Energy,
    Heatmap,
}

/// What a heat map shows.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum MeasureWord {
    Rank,
    StableRank,
    EffectiveRank,
    RankForEnergy,
    Overlap,
    Amplification,
}

/// Runs the command.
pub fn run(arguments: Arguments, global: Global) -> Result {
    let written = [
        ("--out", &arguments.out),
        ("--csv", &arguments.csv),
        ("--values", &arguments.values),
        ("--plot", &arguments.plot),
    ];
    let written: Vec<(&str, &Path)> =
        written.into_iter().filter_map(|(option, path)| Some((option, path.as_deref()?))).collect();
    for (option, path) in &written {
        place::check(option, path, &arguments.file)?;
    }
    place::check_apart(&written)?;
    if let Some(path) = &arguments.plot {
        plot::Format::of(path)?;
    }
    let output = Output::new(global.json);
    let _downloads = Downloads::show(None);
    let options = RankOptions {
        file: &arguments.file,
        tensors: &arguments.tensors,
        tolerance: match (arguments.tol, arguments.rtol) {
            (Some(value), _) => Tolerance::Absolute(value),
            (None, Some(part)) => Tolerance::Relative(part),
            (None, None) => Tolerance::Usual,
        },
        energy: arguments.energy,
        approximate: arguments.approximate,
        with: arguments.with.as_deref(),
        side: match arguments.side {
            SideWord::Right => Side::Right,
            SideWord::Left => Side::Left,
        },
        base: arguments.base.as_deref(),
    };
    let counted = Counted::new("matrices");
    let report = analysis::rank(&options, &|done, all| counted.tell(done, all))?;
    drop(counted);
    if let Some(path) = &arguments.csv {
        report.write_csv(path)?;
    }
    if let Some(path) = &arguments.values {
        report.write_values(path)?;
    }
    if let Some(path) = &arguments.plot {
        plot::save(&plot::draw(&report, kind(&arguments))?, path)?;
    }
    if let (Some(path), Some(k)) = (&arguments.out, arguments.approximate) {
        analysis::write_approximations(&arguments.file, &arguments.tensors, k, path)?;
    }
    output.result(&report, &report)
}

fn kind(arguments: &Arguments) -> Kind {
    let usual = match (&arguments.with, &arguments.base) {
        (Some(_), _) => MeasureWord::Overlap,
        (None, Some(_)) => MeasureWord::Amplification,
        (None, None) => MeasureWord::StableRank,
    };
    match arguments.kind {
        KindWord::Spectrum => Kind::Spectrum,
        KindWord::Energy => Kind::Energy,
        KindWord::Heatmap => Kind::HeatMap(match arguments.measure.unwrap_or(usual) {
            MeasureWord::Rank => Measure::Rank,
            MeasureWord::StableRank => Measure::StableRank,
            MeasureWord::EffectiveRank => Measure::EffectiveRank,
            MeasureWord::RankForEnergy => Measure::RankForEnergy,
            MeasureWord::Overlap => Measure::Overlap,
            MeasureWord::Amplification => Measure::Amplification,
        }),
    }
}

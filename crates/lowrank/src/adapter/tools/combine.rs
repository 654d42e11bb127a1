//! Several adapters as one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use lowrank_kernels::random::Philox;

use super::factors::Factors;
use super::folder::{AdapterFolder, AdapterLayer};
use super::made::{Made, MadePair};
use super::merging::{Pruning, merge};
use super::method::{MajoritySign, Merging, Method};
use super::report::{MadeLayer, MadeReport};
use super::saved;
use crate::adapter::experts::layer_of_expert;
use crate::adapter::initialise::stream_of;
use crate::analysis::Matrix;
use crate::hub::check_is_free;
use crate::{Error, Result};

/// What to combine, and how.
#[derive(Clone, Debug)]
pub struct CombineOptions<'a> {
    /// The adapters, folders or Hub ids, with their weights.
    pub adapters: &'a [(String, f64)],
    /// How.
    pub method: Method,
    /// The part of the elements that is kept, above 0 and at most 1, where the method leaves some out.
    pub density: Option<f64>,
    /// The rank of the result, where the method approximates; absent: the largest of the layer's ranks.
    pub rank: Option<usize>,
    /// How TIES finds the sign of most.
    pub majority_sign: MajoritySign,
    /// Of what DARE leaves out.
    pub seed: u64,
    /// The folder to write; it is made, or is empty.
    pub out: &'a Path,
}

/// A layer of one of the adapters.
struct Part {
    /// The adapter's weight.
    weight: f64,
    /// The layer's.
    scaling: f64,
    /// The dimensions of what `A` reads.
    inputs: Vec<usize>,
    factors: Factors,
    /// The bias of `B` with both in it.
    bias: Option<Vec<f64>>,
}

impl Part {
    /// What the product of the factors is multiplied by.
    fn whole_weight(&self) -> f64 {
        self.weight * self.scaling
    }
}

/// Writes the adapter that does what several do, each times its weight. `cat` is the sum itself, `svd` its best
/// approximation; all others are something else, and the report says how far each layer is from the sum. Biases of `B`
/// are summed, and what an adapter has beside its pairs is kept as it is.
///
/// # Errors
/// If a setting is out of range or of no effect; if ranks differ where the method needs equal ones; if shapes differ, or
/// two adapters have a head, a module to save or a bias of different values.
///
/// # Source
/// PEFT's `add_weighted_adapter`, which under `use_rslora` scales the result once more, loses the biases of `B`, and fills
/// all layers up to the largest rank with zeros.
pub fn combine(options: &CombineOptions<'_>) -> Result<MadeReport> {
    check(options)?;
    check_is_free(options.out)?;
    let folders =
        options.adapters.iter().map(|(name, _)| AdapterFolder::open(name)).collect::<Result<Vec<_>>>()?;
    check_magnitudes(&folders, options)?;
    check_tokens(&folders)?;
    check_experts(&folders)?;
    let others = saved::others(&folders)?;
    let settings = saved::settings(&folders)?;
    let names: BTreeSet<(&str, bool)> = folders
        .iter()
        .flat_map(|folder| folder.layers().iter().map(|layer| (layer.name(), layer.is_embedding)))
        .collect();
    let has_bias = folders.iter().any(AdapterFolder::has_lora_bias);
    let (mut pairs, mut layers) = (Vec::new(), Vec::new());
    for (name, is_embedding) in names {
        let parts = parts(&folders, options, name, is_embedding)?;
        let weighted: Vec<(f64, &Factors)> =
            parts.iter().map(|part| (part.whole_weight(), &part.factors)).collect();
        let wanted = Factors::sum(&weighted);
        let made = made(options, name, &parts, &wanted)?.rounded();
        let (norm, error) = (wanted.norm(name)?, made.distance(&wanted, name)?);
        layers.push(MadeLayer::new(name, [wanted.rows, wanted.columns], made.r, norm, error));
        let bias = (has_bias && !is_embedding).then(|| sum_of_biases(&parts, wanted.rows));
        let inputs = parts.first().map_or_else(Vec::new, |part| part.inputs.clone());
        let parameter = folders.iter().find_map(|folder| folder.layer(name)?.adapted.parameter.clone());
        pairs.push(MadePair { name: name.to_owned(), parameter, is_embedding, inputs, factors: made, bias });
    }
    let notes = saved::note_on_models(&folders).into_iter().collect();
    let report = MadeReport::new(options.out.to_path_buf(), layers, others.len(), notes);
    Made { pairs, others, settings }.write(options.out)?;
    Ok(report)
}

/// One adapter with magnitudes stays what it is; what several would be together is nowhere said.
fn check_magnitudes(folders: &[AdapterFolder], options: &CombineOptions<'_>) -> Result<()> {
    let is_identity = matches!(options.adapters, [(_, weight)] if *weight == 1.0);
    match folders.iter().find(|folder| folder.config().use_dora) {
        Some(folder) if !is_identity => {
            let reason = "its use_dora sets the magnitudes of weights with its own products: it cannot be added to another \
                          adapter, nor count in part; merge it into the base model instead";
            Err(Error::file(folder.path(), reason))
        }
        _ => Ok(()),
    }
}

/// Single rows of tables are kept where all adapters train the same ones.
fn check_tokens(folders: &[AdapterFolder]) -> Result<()> {
    let tokens = |folder: &AdapterFolder| folder.config().trainable_token_indices.clone();
    match folders.iter().find(|folder| tokens(folder) != tokens(&folders[0])) {
        None => Ok(()),
        Some(folder) => {
            let reason =
                "its trainable_token_indices are not those of the first adapter: rows of one would be lost";
            Err(Error::file(folder.path(), reason))
        }
    }
}

/// Stacks are of as many experts in all adapters, and no adapter has a pair for each layer of an expert.
fn check_experts(folders: &[AdapterFolder]) -> Result<()> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for folder in folders {
        for layer in folder.layers() {
            let Some(expert) = layer.expert() else { continue };
            let count = *counts.entry(layer.adapted.name()).or_insert(expert.of);
            if count != expert.of {
                let (name, of) = (layer.adapted.name(), expert.of);
                let reason = format!(
                    "it has {of} experts where another adapter has {count}: they are for different models"
                );
                return Err(folder.error(name, reason));
            }
        }
    }
    let is_of_4 = |layer: &AdapterLayer| layer_of_expert(layer.name()).is_some();
    let older = folders.iter().find(|folder| folder.layers().iter().any(is_of_4));
    match older.filter(|_| !counts.is_empty()) {
        None => Ok(()),
        Some(folder) => {
            let reason = "it has the experts' layers of Transformers 4 and another adapter the stacks of 5: train or save it \
                          again with lowrank or PEFT, which write stacks";
            Err(Error::file(folder.path(), reason))
        }
    }
}

fn check(options: &CombineOptions<'_>) -> Result<()> {
    let CombineOptions { adapters, method, density, rank, .. } = options;
    if adapters.is_empty() {
        return Err(Error::Usage("there is no adapter to combine".into()));
    }
    if let Some((name, weight)) = adapters.iter().find(|(_, weight)| !weight.is_finite()) {
        return Err(Error::setting("weight", format!("that of {name} is {weight}, not a number")));
    }
    match (density, method.prunes()) {
        (None, true) => {
            let reason = format!("{method} needs it: the part of the elements to keep, as 0.5");
            return Err(Error::setting("density", reason));
        }
        (Some(_), false) => {
            return Err(Error::setting(
                "density",
                format!("{method} leaves nothing out, so that there is none"),
            ));
        }
        (Some(density), true) if !(*density > 0.0 && *density <= 1.0) => {
            return Err(Error::setting("density", format!("{density} is not above 0 and at most 1")));
        }
        (Some(density), true) if adapters.len() == 1 && *density < 1.0 => {
            let reason = format!(
                "at {density}, {method} leaves out a part of the one adapter that there is, which is then another; take \
                 1, or the method linear, cat or svd"
            );
            return Err(Error::setting("density", reason));
        }
        _ => {}
    }
    match rank {
        Some(0) => Err(Error::setting("rank", "it is 0; a rank is at least 1")),
        Some(_) if !matches!(method, Method::Svd(_)) => {
            let reason = format!("{method} has the rank that it comes to; the methods on svd take one");
            Err(Error::setting("rank", reason))
        }
        _ => Ok(()),
    }
}

/// The layer of this name in each adapter that has it.
fn parts(
    folders: &[AdapterFolder],
    options: &CombineOptions<'_>,
    name: &str,
    is_embedding: bool,
) -> Result<Vec<Part>> {
    let mut parts: Vec<Part> = Vec::new();
    for (folder, (_, weight)) in folders.iter().zip(options.adapters) {
        let same_kind = |layer: &&AdapterLayer| layer.is_embedding == is_embedding;
        let Some(layer) = folder.layer(name).filter(same_kind) else { continue };
        folder.check_magnitude(layer)?;
        let product = folder.product(layer)?;
        let factors = Factors::stored(&product)?;
        let inputs = folder.inputs(layer)?;
        if let Some(part) = parts.first() {
            let first = &part.factors;
            if (first.rows, first.columns) != (factors.rows, factors.columns) || part.inputs != inputs {
                let reason = format!(
                    "it is {} by {inputs:?} where another adapter has {} by {:?}: they are for different models",
                    factors.rows, first.rows, part.inputs
                );
                return Err(folder.error(name, reason));
            }
            if first.r != factors.r && matches!(options.method, Method::Factors(_)) {
                let reason = format!(
                    "its rank is {} where another adapter has {}; {} needs equal ranks: take cat, or a method on svd",
                    factors.r, first.r, options.method
                );
                return Err(folder.error(name, reason));
            }
        }
        let bias = folder.bias(layer)?.map(|bias| bias.into_iter().map(|value| weight * value).collect());
        let inputs = inputs.to_vec();
        parts.push(Part { weight: *weight, scaling: product.scaling(), inputs, factors, bias });
    }
    Ok(parts)
}

/// The factors that the method makes of a layer; `sum` is that of all.
fn made(options: &CombineOptions<'_>, name: &str, parts: &[Part], sum: &Factors) -> Result<Factors> {
    let largest = parts.iter().map(|part| part.factors.r).max().unwrap_or(1);
    let rank = options.rank.unwrap_or(largest);
    let mut pruning = Pruning {
        density: options.density.unwrap_or(1.0),
        majority_sign: options.majority_sign,
        random: &mut Philox::new(options.seed, stream_of(name)),
    };
    let (rows, columns) = (sum.rows, sum.columns);
    match options.method {
        Method::Cat => Ok(sum.clone()),
        Method::Svd(Merging::Linear) => {
            Ok(Factors::of(sum.product(name)?.low_rank_approximation(rank)?, rows, columns))
        }
        Method::Svd(merging) => {
            let scaled = |part: &Part| Factors::sum(&[(part.scaling, &part.factors)]).formed();
            let weights: Vec<f64> = parts.iter().map(|part| part.weight).collect();
            let merged = merge(merging, parts.iter().map(scaled).collect(), &weights, &mut pruning);
            let matrix = Matrix::from_f64(name, &merged, rows, columns)?;
            Ok(Factors::of(matrix.low_rank_approximation(rank)?, rows, columns))
        }
        Method::Factors(merging) => {
            // Each factor takes the root of the weight, so that one adapter alone comes out as it is.
            let roots: Vec<f64> = parts.iter().map(|part| part.whole_weight().abs().sqrt()).collect();
            let signed: Vec<f64> =
                roots.iter().zip(parts).map(|(root, part)| root * part.whole_weight().signum()).collect();
            let factors =
                |of: fn(&Factors) -> &Vec<f64>| parts.iter().map(|part| of(&part.factors).clone()).collect();
            let a = merge(merging, factors(|factors| &factors.a), &signed, &mut pruning);
            let b = merge(merging, factors(|factors| &factors.b), &roots, &mut pruning);
            Ok(Factors { a, b, rows, r: largest, columns })
        }
    }
}

fn sum_of_biases(parts: &[Part], rows: usize) -> Vec<f64> {
    let mut sum = vec![0.0; rows];
    for bias in parts.iter().filter_map(|part| part.bias.as_ref()) {
        sum.iter_mut().zip(bias).for_each(|(sum, value)| *sum += value);
    }
    sum
}

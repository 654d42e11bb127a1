//! Pairs that begin along the directions of a layer's own inputs: EVA.

use std::collections::BTreeMap;

use lowrank_kernels::svd::svd;

use super::attach::{Plan, attach};
use super::config::{Init, LoraConfig, Targets};
use super::layers::Adapted;
use crate::models::ModelInfo;
use crate::nn::{Module, for_each_linear_mut};
use crate::tape::AdapterId;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// By how much a layer's rank may grow: PEFT's `rho`.
const GROWTH: f64 = 2.0;
/// The cosine between a direction and itself after more rows, above which it is settled: PEFT's `tau`.
const SETTLED: f64 = 0.99;
/// Rows that are taken of a batch, evenly: a decomposition costs their square.
const MOST_ROWS: usize = 256;

/// The directions along which the inputs of layers vary most, found batch after batch.
///
/// # Source
/// Paischer et al., EVA (arXiv 2410.07170); the incremental decomposition of Ross et al. (2008), as in PEFT's `eva.py`.
#[derive(Debug)]
pub struct Eva {
    /// The adapted linear layers, by their names.
    layers: Vec<Adapted>,
    /// The directions of each layer's inputs, those of layers that read the same rows once.
    directions: BTreeMap<String, Directions>,
    /// The layer whose directions a layer has.
    owners: BTreeMap<String, String>,
    /// Where the rows lay that were shown last, and the layer that they are noted for.
    last: Option<(usize, String)>,
}

/// Principal components.
#[derive(Debug, Default)]
struct Directions {
    most: usize,
    width: usize,
    /// `[k, width]`, of length 1, the strongest first.
    components: Vec<f64>,
    /// The singular values.
    values: Vec<f64>,
    mean: Vec<f64>,
    /// The sum of the squared distances from the mean.
    squares: f64,
    rows: usize,
    settled: bool,
}

impl Eva {
    /// Of the linear layers of a plan.
    ///
    /// # Errors
    /// If there is none, or ranks are set by pattern, which follow from the inputs.
    pub fn new(plan: &Plan, config: &LoraConfig) -> Result<Self> {
        if !config.rank_pattern.is_empty() || !config.alpha_pattern.is_empty() {
            let reason = "\"eva\" gives each layer a rank and an alpha itself: leave rank_pattern and alpha_pattern out";
            return Err(Error::setting("init_lora_weights", reason));
        }
        let layers = plan.targets.linears.clone();
        if layers.is_empty() {
            return Err(Error::setting("init_lora_weights", "\"eva\" needs linear layers among the targets"));
        }
        Ok(Self { layers, directions: BTreeMap::new(), owners: BTreeMap::new(), last: None })
    }

    /// Takes rows that the weight of this name multiplies.
    ///
    /// # Shapes
    /// `rows`: `[tokens, inputs]`.
    pub fn show(&mut self, weight: &str, rows: &Tensor) {
        let Some(name) = weight.strip_suffix(".weight") else { return };
        let Some(layer) = Adapted::find(&self.layers, name) else { return };
        let place = rows.bytes().as_ptr() as usize;
        let most = (layer.r as f64 * GROWTH).round() as usize;
        if let Some((last, owner)) = &self.last
            && *last == place
            && owner != name
        {
            self.owners.entry(name.to_owned()).or_insert_with(|| owner.clone());
            return;
        }
        self.last = Some((place, name.to_owned()));
        self.owners.insert(name.to_owned(), name.to_owned());
        let (_, width) = rows.rows_and_width();
        let directions = self.directions.entry(name.to_owned()).or_default();
        (directions.most, directions.width) = (most.min(width), width);
        if !directions.settled {
            directions.add(&sampled(rows));
        }
    }

    /// Tells that a batch is over: what is shown next lies elsewhere, even under the same address.
    pub fn end_of_batch(&mut self) {
        self.last = None;
    }

    /// Whether more rows would hardly move a direction that is kept.
    pub fn is_settled(&self) -> bool {
        !self.directions.is_empty() && self.directions.values().all(|directions| directions.settled)
    }

    /// How many of each layer's directions are among the strongest of all, as many as the layers have ranks.
    fn ranks(&self) -> Vec<usize> {
        let budget: usize = self.layers.iter().map(|layer| layer.r).sum();
        let shares = self.layers.iter().enumerate().flat_map(|(place, layer)| {
            let shares = self.of(layer).map_or_else(Vec::new, Directions::shares);
            shares.into_iter().map(move |share| (share, place))
        });
        let mut shares: Vec<(f64, usize)> = shares.collect();
        shares.sort_by(|x, y| y.0.total_cmp(&x.0).then(x.1.cmp(&y.1)));
        let mut ranks = vec![0; self.layers.len()];
        shares.iter().take(budget).for_each(|(_, place)| ranks[*place] += 1);
        ranks
    }

    fn of(&self, layer: &Adapted) -> Option<&Directions> {
        self.directions.get(self.owners.get(&layer.path)?)
    }

    /// Puts a fresh adapter on a model: each layer has the rank that its directions earned and `A` along these, `B` is
    /// zero, and the scaling is that of the configuration. A layer that earned none is not adapted. Returns what the
    /// adapter then is, in a configuration of plain LoRA.
    ///
    /// # Errors
    /// As [`attach`]; if no layer was shown rows.
    pub fn attach(
        &self,
        model: &mut dyn Module,
        info: &ModelInfo,
        config: &LoraConfig,
        adapter: AdapterId,
        seed: u64,
    ) -> Result<(Plan, LoraConfig)> {
        let ranks = self.ranks();
        let adapted = || self.layers.iter().zip(&ranks).filter(|(_, r)| **r > 0);
        if adapted().next().is_none() {
            return Err(Error::Usage(
                "no rows were shown that a beginning by \"eva\" could be made of".into(),
            ));
        }
        let alpha = |layer: &Adapted, r: usize| {
            let (old, new) = (layer.r as f64, r as f64);
            let ratio = if config.use_rslora { (new / old).sqrt() } else { new / old };
            layer.lora_alpha.unwrap_or(old) * ratio
        };
        let others = || adapted().filter(|(_, r)| **r != config.r);
        let embeddings = super::target_modules(model, info, config)?.embeddings;
        let names = adapted().map(|(layer, _)| layer.path.clone());
        let plain = LoraConfig {
            target_modules: Some(Targets::Names(
                names.chain(embeddings.into_iter().map(|layer| layer.path)).collect(),
            )),
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: Vec::new(),
            rank_pattern: others().map(|(layer, r)| (layer.path.clone(), *r)).collect(),
            alpha_pattern: others().map(|(layer, r)| (layer.path.clone(), alpha(layer, *r))).collect(),
            init_lora_weights: Init::Default,
            ..config.clone()
        };
        let plan = attach(model, info, &plain, adapter, seed)?;
        for_each_linear_mut(model, |path, linear| {
            let directions = Adapted::find(&self.layers, path).and_then(|layer| self.of(layer));
            let pair = linear.lora.iter_mut().find(|lora| lora.adapter == adapter);
            if let Some((directions, pair)) = directions.zip(pair) {
                let components = directions.components.iter().map(|value| *value as f32);
                pair.a.value_mut().iter_mut().zip(components).for_each(|(a, component)| *a = component);
            }
        });
        Ok((plan, plain))
    }
}

/// Rows of a tensor, evenly spaced, `[rows, width]`.
fn sampled(tensor: &Tensor) -> Vec<f64> {
    let (rows, width) = tensor.rows_and_width();
    let values = tensor.to_f32_vec();
    let taken = rows.min(MOST_ROWS);
    let row = |at: usize| at * rows / taken.max(1);
    (0..taken)
        .flat_map(|at| &values[row(at) * width..(row(at) + 1) * width])
        .map(|value| f64::from(*value))
        .collect()
}

impl Directions {
    /// Takes more rows in. Those that are not finite are left out.
    fn add(&mut self, rows: &[f64]) {
        let width = self.width;
        let count = rows.len() / width.max(1);
        if count == 0 || rows.iter().any(|value| !value.is_finite()) {
            return;
        }
        let mut mean = vec![0.0; width];
        rows.chunks_exact(width)
            .for_each(|row| mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += x / count as f64));
        let (old, new) = (self.rows as f64, count as f64);
        self.mean.resize(width, 0.0);
        let shift: Vec<f64> = self.mean.iter().zip(&mean).map(|(old, new)| old - new).collect();
        let weight = (old * new / (old + new)).sqrt();
        // What is known so far, the rows around their mean, and how far that moves.
        let mut stack: Vec<f64> = Vec::with_capacity((self.values.len() + count + 1) * width);
        for (component, value) in self.components.chunks_exact(width).zip(&self.values) {
            stack.extend(component.iter().map(|x| value * x));
        }
        rows.chunks_exact(width)
            .for_each(|row| stack.extend(row.iter().zip(&mean).map(|(x, mean)| x - mean)));
        self.squares += stack[self.values.len() * width..].iter().map(|x| x * x).sum::<f64>();
        if self.rows > 0 {
            stack.extend(shift.iter().map(|x| weight * x));
            self.squares += shift.iter().map(|x| (weight * x).powi(2)).sum::<f64>();
        }
        let Some(found) = svd(&stack, stack.len() / width, width) else { return };
        let kept = self.most.min(found.values.len());
        let components = found.right[..kept * width].to_vec();
        let same =
            |(x, y): (&[f64], &[f64])| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>().abs() > SETTLED;
        self.settled = self.components.len() == components.len()
            && self.components.chunks_exact(width).zip(components.chunks_exact(width)).all(same);
        self.values = found.values[..kept].to_vec();
        self.components = components;
        let total = old + new;
        self.mean.iter_mut().zip(&mean).for_each(|(mean, batch)| *mean = (old * *mean + new * batch) / total);
        self.rows += count;
    }

    /// The part of all variance that each direction has.
    fn shares(&self) -> Vec<f64> {
        let squares = self.squares.max(f64::MIN_POSITIVE);
        self.values.iter().map(|value| value * value / squares).collect()
    }
}

#[cfg(test)]
mod tests {
    use lowrank_kernels::random::Philox;

    use super::*;

    /// Rows that vary along three directions, far from zero.
    fn rows(count: usize, width: usize) -> Vec<f64> {
        let random = &mut Philox::new(5, 3);
        (0..count)
            .flat_map(|_| {
                let weights: Vec<f64> =
                    [5.0, 2.0, 1.0].iter().map(|s| s * f64::from(random.normal_f32())).collect();
                let noise: Vec<f64> = (0..width).map(|_| 0.05 * f64::from(random.normal_f32())).collect();
                (0..width).map(move |j| {
                    let direction = |k: usize| (((k + 1) * (j + 1)) as f64).sin();
                    4.0 + noise[j] + (0..3).map(|k| weights[k] * direction(k)).sum::<f64>()
                })
            })
            .collect()
    }

    #[test]
    fn directions_in_parts_are_those_of_all_rows_together() {
        let (count, width) = (200, 17);
        let all = rows(count, width);
        let mut parts = Directions { most: 3, width, ..Directions::default() };
        all.chunks(40 * width).for_each(|part| parts.add(part));
        let mut mean = vec![0.0; width];
        all.chunks_exact(width)
            .for_each(|row| mean.iter_mut().zip(row).for_each(|(m, x)| *m += x / count as f64));
        let centred: Vec<f64> =
            all.chunks_exact(width).flat_map(|row| row.iter().zip(&mean).map(|(x, m)| x - m)).collect();
        let whole = svd(&centred, count, width).unwrap();
        let squares: f64 = whole.values.iter().map(|value| value * value).sum();
        assert!((parts.squares / squares - 1.0).abs() < 1e-9);
        for k in 0..3 {
            assert!((parts.values[k] / whole.values[k] - 1.0).abs() < 1e-3, "{k}");
            let (x, y) =
                (&parts.components[k * width..(k + 1) * width], &whole.right[k * width..(k + 1) * width]);
            let cosine: f64 = x.iter().zip(y).map(|(x, y)| x * y).sum();
            assert!(cosine.abs() > 0.999, "{k}: {cosine}");
        }
        assert!(parts.settled);
        parts.mean.iter().zip(&mean).for_each(|(x, y)| assert!((x - y).abs() < 1e-9));
    }

    #[test]
    fn ranks_go_where_the_variance_is_and_are_as_many_as_before() {
        let layer = |path: &str| Adapted {
            path: path.into(),
            r: 2,
            lora_alpha: Some(4.0),
            scaling: 2.0,
            lora_bias: false,
            use_dora: false,
            parameter: None,
        };
        let width = 9;
        let mut eva = Eva {
            layers: vec![layer("even"), layer("one"), layer("shared")],
            directions: BTreeMap::new(),
            owners: BTreeMap::new(),
            last: None,
        };
        let random = &mut Philox::new(1, 1);
        let even: Vec<f32> = (0..60 * width).map(|_| random.normal_f32()).collect();
        let one: Vec<f32> = (0..60)
            .flat_map(|_| {
                let weight = random.normal_f32();
                (0..width).map(move |j| weight * (j as f32 + 1.0)).collect::<Vec<_>>()
            })
            .collect();
        let (even, one) = (Tensor::from_slice([60, width], &even), Tensor::from_slice([60, width], &one));
        eva.show("even.weight", &even);
        eva.show("shared.weight", &even);
        eva.show("one.weight", &one);
        eva.show("elsewhere.weight", &one);
        eva.end_of_batch();
        assert_eq!(eva.directions.len(), 2, "those that read the same rows are one");
        let ranks = eva.ranks();
        assert_eq!(ranks.iter().sum::<usize>(), 6);
        assert_eq!(ranks[1], 1, "its inputs vary along one direction: {ranks:?}");
    }
}

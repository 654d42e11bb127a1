//! Rotary positions, with the ways to stretch them.

use serde_json::{Map, Value};

use super::fields::{flag, number, size, text};

/// How the frequencies of rotary positions are made.
///
/// # Source
/// Su et al., RoFormer (arXiv 2104.09864); the variants as in Transformers' `modeling_rope_utils`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base of the frequencies.
    pub theta: f64,
    /// The way that they are stretched.
    pub kind: RopeKind,
}

/// A way to stretch rotary positions beyond the lengths that a model was trained on.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeKind {
    /// None.
    Default,
    /// All positions divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// A larger base for sequences beyond `original`: that of the longest sequence of a batch, for all of them, as
    /// Transformers has it. So what a sequence becomes depends on those beside it, once one is longer.
    Dynamic {
        /// The factor.
        factor: f64,
        /// The length from which on the base grows.
        original: f64,
    },
    /// Long wavelengths divided by a factor, short ones kept.
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wavelengths above `original / low` are divided.
        low: f64,
        /// Wavelengths below `original / high` are kept.
        high: f64,
        /// The length that the model was trained on first.
        original: f64,
    },
    /// YaRN (Peng et al., arXiv 2309.00071).
    Yarn {
        /// The factor.
        factor: f64,
        /// Rotations above which a dimension is kept.
        beta_fast: f64,
        /// Rotations below which a dimension is divided.
        beta_slow: f64,
        /// The length that the model was trained on first.
        original: f64,
        /// What cosines and sines are multiplied by.
        attention_factor: f64,
        /// Whether the borders of the ramp are whole numbers.
        truncate: bool,
    },
}

impl Rope {
    /// Reads `rope_parameters` (Transformers 5), or `rope_theta` and `rope_scaling` (4), of which the latter counts where
    /// both are there.
    ///
    /// # Source
    /// Transformers' `convert_rope_params_to_dict` and `standardize_rope_params`.
    pub(super) fn from_map(map: &Map<String, Value>, positions: usize, theta: f64) -> Result<Self, String> {
        let empty = Map::new();
        let object = |key: &str| match map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(inner)) => Ok(Some(inner)),
            Some(other) => Err(format!("{key} is {other}; it must be an object")),
        };
        let (scaling, parameters) = (object("rope_scaling")?, object("rope_parameters")?);
        let inner = scaling.filter(|scaling| !scaling.is_empty()).or(parameters).unwrap_or(&empty);
        let theta = number(map, "rope_theta", theta)?;
        let theta = number(inner, "rope_theta", theta)?;
        let partial = number(map, "partial_rotary_factor", 1.0)?;
        let partial = number(inner, "partial_rotary_factor", partial)?;
        if theta <= 0.0 {
            return Err(format!("rope_theta {theta} makes no rotation"));
        }
        let kind = match text(inner, "rope_type")? {
            Some(kind) => kind,
            None => text(inner, "type")?.unwrap_or("default"),
        };
        // The plain rotation of these architectures turns whole heads whatever it says; with the others they fail.
        if kind != "default" && partial != 1.0 {
            return Err(format!(
                "partial_rotary_factor is {partial}; with rope_type {kind:?} whole heads are turned, remove it"
            ));
        }
        let factor = || match number(inner, "factor", 1.0)? {
            factor if factor >= 1.0 => Ok(factor),
            factor => Err(format!("the factor of rope_scaling is {factor}; it must be at least 1")),
        };
        let own = size(inner, "original_max_position_embeddings", Some(positions))?;
        let original = size(map, "original_max_position_embeddings", Some(own))? as f64;
        let kind = match kind {
            "default" => RopeKind::Default,
            "linear" => RopeKind::Linear { factor: factor()? },
            // Transformers takes the model's own length here, not the original one.
            "dynamic" => RopeKind::Dynamic { factor: factor()?, original: positions as f64 },
            "llama3" => RopeKind::Llama3 {
                factor: factor()?,
                low: number(inner, "low_freq_factor", 1.0)?,
                high: number(inner, "high_freq_factor", 4.0)?,
                original,
            },
            "yarn" => {
                let factor = match inner.get("factor") {
                    None | Some(Value::Null) => (positions as f64 / original).max(1.0),
                    Some(_) => factor()?,
                };
                let scale = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
                let (mscale, all) = (number(inner, "mscale", 0.0)?, number(inner, "mscale_all_dim", 0.0)?);
                let usual = if mscale != 0.0 && all != 0.0 { scale(mscale) / scale(all) } else { scale(1.0) };
                RopeKind::Yarn {
                    factor,
                    beta_fast: number(inner, "beta_fast", 32.0)?,
                    beta_slow: number(inner, "beta_slow", 1.0)?,
                    original,
                    attention_factor: number(inner, "attention_factor", usual)?,
                    truncate: flag(inner, "truncate", true)?,
                }
            }
            other => {
                return Err(format!(
                    "rope_type {other:?} is not one of default, linear, dynamic, llama3, yarn"
                ));
            }
        };
        Ok(Self { theta, kind })
    }

    /// The angle per position of each pair of dimensions of a head, and what cosines and sines are multiplied by, for
    /// sequences of up to `length` positions.
    pub fn frequencies(&self, head_dim: usize, length: usize) -> (Vec<f32>, f32) {
        let dim = head_dim / 2 * 2;
        let plain = |theta: f64| (0..dim / 2).map(move |i| theta.powf(-((2 * i) as f64) / dim as f64));
        let single = |values: Vec<f64>| values.into_iter().map(|x| x as f32).collect::<Vec<f32>>();
        match self.kind {
            RopeKind::Default => (single(plain(self.theta).collect()), 1.0),
            RopeKind::Linear { factor } => (single(plain(self.theta).map(|f| f / factor).collect()), 1.0),
            RopeKind::Dynamic { factor, original } => {
                let length = (length as f64).max(original);
                let grown = factor * length / original - (factor - 1.0);
                let theta = self.theta * grown.powf(dim as f64 / (dim as f64 - 2.0).max(1.0));
                (single(plain(theta).collect()), 1.0)
            }
            RopeKind::Llama3 { factor, low, high, original } => {
                let stretched = plain(self.theta).map(|frequency| {
                    let wavelength = std::f64::consts::TAU / frequency;
                    if wavelength > original / low {
                        frequency / factor
                    } else if wavelength < original / high {
                        frequency
                    } else {
                        let smooth = (original / wavelength - low) / (high - low);
                        (1.0 - smooth) * frequency / factor + smooth * frequency
                    }
                });
                (single(stretched.collect()), 1.0)
            }
            RopeKind::Yarn { factor, beta_fast, beta_slow, original, attention_factor, truncate } => {
                let place = |rotations: f64| {
                    dim as f64 * (original / (rotations * std::f64::consts::TAU)).ln()
                        / (2.0 * self.theta.ln())
                };
                let (mut low, mut high) = (place(beta_fast), place(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, mut high) = (low.max(0.0), high.min(dim as f64 - 1.0));
                if low == high {
                    high += 0.001;
                }
                let stretched = plain(self.theta).enumerate().map(|(i, frequency)| {
                    let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    frequency / factor * ramp + frequency * (1.0 - ramp)
                });
                (single(stretched.collect()), attention_factor as f32)
            }
        }
    }
}

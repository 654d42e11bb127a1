//! `LoraConfig`, under PEFT's names and with its defaults.

use std::fmt;
use std::sync::Arc;

use lowrank_kernels::random::Philox;

use super::layers::{Adapted, PerLayer};
use crate::{Error, Result};

/// No layer of today has a side beyond this; a rank beyond both sides of a layer adds nothing.
const LARGEST_RANK: usize = 1 << 16;

/// What to adapt, and how.
#[derive(Clone, Debug)]
pub struct LoraConfig {
    /// The rank `r`.
    pub r: usize,
    /// The numerator of the scaling; absent: `r`, so that the scaling is 1.
    pub lora_alpha: Option<f64>,
    /// The probability with which an element of an adapter's input is dropped in training.
    pub lora_dropout: f32,
    /// The layers to adapt; absent: the architecture's usual ones, or none beside `target_parameters`, where PEFT adds the
    /// usual ones of models that are no mixtures.
    pub target_modules: Option<Targets>,
    /// Parameters to adapt, by their names or the ends of these: the stacked weights of experts, a router's, or those of
    /// linear layers.
    pub target_parameters: Vec<String>,
    /// Layers to leave out of those of `target_modules`.
    pub exclude_modules: Option<Targets>,
    /// Which biases are trained as well.
    pub bias: Bias,
    /// Modules that are trained whole and saved with the adapter; the head is added by itself.
    pub modules_to_save: Vec<String>,
    /// Ranks of single layers: a name, the end of one, or a regular expression for these; the first that matches decides.
    pub rank_pattern: Vec<(String, usize)>,
    /// `lora_alpha` of single layers, in the same way.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Entries of tables whose rows are trained, where the table is not.
    pub trainable_token_indices: Option<TokenIndices>,
    /// Of the layers in a numbered list, those to adapt; absent or empty: all.
    pub layers_to_transform: Option<Vec<usize>>,
    /// The names of the lists that `layers_to_transform` numbers; empty: whatever list comes first in a name.
    pub layers_pattern: Vec<String>,
    /// Give each linear layer's pair a bias, which begins at zero; it is scaled as the pair.
    pub lora_bias: bool,
    /// Divide by `√r` rather than `r`.
    pub use_rslora: bool,
    /// Give each layer a magnitude of its own, and let the weight and the pair decide its direction alone: DoRA.
    pub use_dora: bool,
    /// How `A` and `B` begin.
    pub init_lora_weights: Init,
    /// Train the layer norms too; saved as a module of `modules_to_save`.
    pub train_layer_norms: bool,
    /// Train the embeddings too; saved as a module of `modules_to_save`.
    pub train_embeddings: bool,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: Some(8.0),
            lora_dropout: 0.0,
            target_modules: None,
            target_parameters: Vec::new(),
            exclude_modules: None,
            bias: Bias::None,
            modules_to_save: Vec::new(),
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            trainable_token_indices: None,
            layers_to_transform: None,
            layers_pattern: Vec::new(),
            lora_bias: false,
            use_rslora: false,
            use_dora: false,
            init_lora_weights: Init::default(),
            train_layer_norms: false,
            train_embeddings: false,
        }
    }
}

impl LoraConfig {
    /// What multiplies `B·A·x` of a layer with this rank and numerator.
    ///
    /// # Source
    /// `alpha/r` of LoRA (arXiv 2106.09685); `alpha/√r` of rsLoRA (arXiv 2312.03732).
    pub(super) fn scaling(&self, r: usize, lora_alpha: Option<f64>) -> f32 {
        let r = r as f64;
        let alpha = lora_alpha.unwrap_or(r);
        (alpha / if self.use_rslora { r.sqrt() } else { r }) as f32
    }

    /// What the patterns give the layer at `path`, which is adapted.
    ///
    /// # Errors
    /// If a pattern is no regular expression, or takes too long on the path.
    pub fn layer(&self, path: &str) -> Result<Adapted> {
        PerLayer::new(self)?.adapted(path, None)
    }

    /// Checks the settings that do not depend on a model.
    ///
    /// # Errors
    /// If the rank is 0 or beyond any layer, or a number is out of its range.
    pub fn check(&self) -> Result<()> {
        check_rank("r", "it", self.r)?;
        for (pattern, r) in &self.rank_pattern {
            check_rank("rank_pattern", &format!("{pattern:?}"), *r)?;
        }
        let in_range = |alpha: f64| alpha.is_finite() && alpha > 0.0;
        if let Some((pattern, alpha)) = self.alpha_pattern.iter().find(|(_, alpha)| !in_range(*alpha)) {
            return Err(Error::setting("alpha_pattern", format!("{pattern:?} is {alpha}, not above 0")));
        }
        let numbered = self.layers_to_transform.as_ref().is_some_and(|numbers| !numbers.is_empty());
        if numbered && matches!(self.target_modules, Some(Targets::Pattern(_))) {
            let reason = "it goes with a list of target_modules, not with a regular expression, which can name layers itself";
            return Err(Error::setting("layers_to_transform", reason));
        }
        if !numbered && !self.layers_pattern.is_empty() {
            return Err(Error::setting(
                "layers_pattern",
                "it says what layers_to_transform numbers, which is absent",
            ));
        }
        if self.use_dora && self.init_lora_weights.takes_from_the_weight() {
            let reason = "it does not go with an init_lora_weights that takes a part of the weight";
            return Err(Error::setting("use_dora", reason));
        }
        if self.lora_bias && self.init_lora_weights.word().is_some() {
            let reason = "it goes with init_lora_weights = true or false alone, as in PEFT";
            return Err(Error::setting("lora_bias", reason));
        }
        if self.lora_bias && self.use_dora {
            return Err(Error::setting("lora_bias", "it does not go with use_dora, as in PEFT"));
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return Err(Error::setting("lora_dropout", format!("{} is not in 0..1", self.lora_dropout)));
        }
        match self.lora_alpha {
            Some(alpha) if !in_range(alpha) => {
                Err(Error::setting("lora_alpha", format!("{alpha} is not above 0")))
            }
            _ => Ok(()),
        }
    }
}

fn check_rank(key: &str, what: &str, r: usize) -> Result<()> {
    match r {
        0 => Err(Error::setting(key, format!("{what} is 0; a rank is at least 1"))),
        1..=LARGEST_RANK => Ok(()),
        _ => Err(Error::setting(key, format!("{what} is {r}; a rank is at most {LARGEST_RANK}"))),
    }
}

/// A choice of modules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// Full names, or the last parts of names.
    Names(Vec<String>),
    /// A regular expression that must match a full name from end to end.
    Pattern(String),
    /// Every linear layer but the head.
    AllLinear,
}

impl Targets {
    /// What a person types on a command line: `all-linear`, a regular expression (anything with a character that no
    /// name has), or names with commas between.
    pub fn from_words(text: &str) -> Self {
        if text == "all-linear" {
            Self::AllLinear
        } else if text.contains(|c: char| r"*+?()[]{}|\^$".contains(c)) {
            Self::Pattern(text.to_owned())
        } else {
            let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
            Self::Names(names.map(str::to_owned).collect())
        }
    }
}

/// Which biases are trained with an adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bias {
    /// None.
    #[default]
    None,
    /// All of the model.
    All,
    /// Those of the adapted layers.
    LoraOnly,
}

impl Bias {
    /// PEFT's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::All => "all",
            Self::LoraOnly => "lora_only",
        }
    }

    /// Reads PEFT's word.
    ///
    /// # Errors
    /// If it is another.
    pub fn parse(word: &str) -> Result<Self> {
        match word {
            "none" => Ok(Self::None),
            "all" => Ok(Self::All),
            "lora_only" => Ok(Self::LoraOnly),
            _ => Err(Error::setting("bias", format!("{word:?} is not one of none, all, lora_only"))),
        }
    }
}

/// Entries of tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenIndices {
    /// Of the table of words that the model reads.
    OfInput(Vec<u32>),
    /// Of each of these tables, named in full or by the end of their names.
    OfTables(Vec<(String, Vec<u32>)>),
}

/// How `A` and `B` begin.
#[derive(Clone, Debug, Default)]
pub enum Init {
    /// PEFT's `true`: `A` uniform in `±1/√inputs` (Kaiming with slope √5), `B` zero. Of an embedding, here and in the
    /// next, `A` is zero and `B` standard normal.
    #[default]
    Default,
    /// PEFT's `"gaussian"`: `A` normal with deviation `1/r`, `B` zero.
    Gaussian,
    /// PEFT's `false`: `A` uniform in `±1/√inputs` and `B` in `±1/√r`, both standard normal of an embedding. The adapter
    /// changes what the model answers from the first step on.
    Random,
    /// PEFT's `"orthogonal"`: neither is zero, and `B·A` is. Ranks are even; embeddings begin as by default.
    Orthogonal,
    /// PEFT's `"pissa"`: the pair is the part of the weight along its largest singular values, and the weight counts as
    /// what is left without it. With a number, `"pissa_niter_N"`: nearly that, of as many rounds of power iteration.
    Pissa {
        /// The rounds; absent: exact.
        iterations: Option<usize>,
    },
    /// PEFT's `"loftq"`: the pair is the nearest to what a weight lost in 8 bits. The adapter belongs to the base model
    /// in 8 bits.
    Loftq,
    /// PEFT's `"eva"`: `A` along the directions of the layer's inputs in the user's data, with ranks where these vary
    /// most. Made by [`Eva`](super::Eva), which a run does; [`attach`](super::attach) alone takes it for the default.
    Eva,
    /// PEFT's `"olora"`: as PiSSA with the leading part of the weight's QR decomposition.
    Olora,
    /// A distribution for each.
    Custom {
        /// `A`'s.
        a: Distribution,
        /// `B`'s.
        b: Distribution,
    },
}

impl Init {
    /// The word that PEFT has for it, which names one that is given as a word.
    pub fn word(&self) -> Option<String> {
        Some(match self {
            Self::Default | Self::Random | Self::Custom { .. } => return None,
            Self::Gaussian => "gaussian".to_owned(),
            Self::Orthogonal => "orthogonal".to_owned(),
            Self::Olora => "olora".to_owned(),
            Self::Loftq => "loftq".to_owned(),
            Self::Eva => "eva".to_owned(),
            Self::Pissa { iterations: None } => "pissa".to_owned(),
            Self::Pissa { iterations: Some(iterations) } => format!("pissa_niter_{iterations}"),
        })
    }

    /// The one of a word.
    pub fn of_word(word: &str) -> Option<Self> {
        Some(match word {
            "gaussian" => Self::Gaussian,
            "orthogonal" => Self::Orthogonal,
            "olora" => Self::Olora,
            "loftq" => Self::Loftq,
            "eva" => Self::Eva,
            "pissa" => Self::Pissa { iterations: None },
            _ => Self::Pissa { iterations: Some(word.strip_prefix("pissa_niter_")?.parse().ok()?) },
        })
    }

    /// Whether the pair begins as a part of the weight, which then counts as what is left.
    pub fn takes_from_the_weight(&self) -> bool {
        matches!(self, Self::Pissa { .. } | Self::Olora)
    }

    /// The distributions of `A` `[r, inputs]` and `B` `[outputs, r]`; none where the elements depend on each other.
    pub(super) fn distributions(
        &self,
        r: usize,
        inputs: usize,
        r_of_group: usize,
    ) -> Option<(Distribution, Distribution)> {
        Some(match self {
            Self::Default | Self::Eva => (Distribution::kaiming(inputs), Distribution::Constant(0.0)),
            Self::Gaussian => {
                let a = Distribution::Normal { mean: 0.0, deviation: 1.0 / r as f32 };
                (a, Distribution::Constant(0.0))
            }
            Self::Random => (Distribution::kaiming(inputs), Distribution::kaiming(r_of_group)),
            Self::Orthogonal | Self::Pissa { .. } | Self::Olora | Self::Loftq => return None,
            Self::Custom { a, b } => (a.clone(), b.clone()),
        })
    }

    /// The distributions of an embedding's `A` `[r, entries]` and `B` `[width, r]`.
    ///
    /// # Source
    /// PEFT's `reset_lora_parameters`.
    pub(super) fn of_embedding(&self) -> (Distribution, Distribution) {
        match self {
            Self::Default
            | Self::Eva
            | Self::Gaussian
            | Self::Orthogonal
            | Self::Pissa { .. }
            | Self::Olora
            | Self::Loftq => {
                (Distribution::Constant(0.0), Distribution::Normal { mean: 0.0, deviation: 1.0 })
            }
            Self::Random => {
                let normal = Distribution::Normal { mean: 0.0, deviation: 1.0 };
                (normal.clone(), normal)
            }
            Self::Custom { a, b } => (a.clone(), b.clone()),
        }
    }
}

/// Where the elements of a matrix are drawn from.
#[derive(Clone)]
pub enum Distribution {
    /// Always this value.
    Constant(f32),
    /// Uniform from `low` up to `high`.
    Uniform {
        /// The smallest value.
        low: f32,
        /// The end, which is not drawn.
        high: f32,
    },
    /// Normal.
    Normal {
        /// The mean.
        mean: f32,
        /// The standard deviation.
        deviation: f32,
    },
    /// A function of one's own, called once for each element in row-major order.
    Custom(Arc<dyn Fn(&mut Philox) -> f32 + Send + Sync>),
}

impl Distribution {
    /// Uniform in `±1/√inputs`: Kaiming with slope √5, how PyTorch begins a linear layer.
    pub(super) fn kaiming(inputs: usize) -> Self {
        let bound = 1.0 / (inputs as f32).sqrt();
        Self::Uniform { low: -bound, high: bound }
    }

    pub(super) fn fill(&self, values: &mut [f32], generator: &mut Philox) {
        match self {
            Self::Constant(value) => values.fill(*value),
            Self::Uniform { low, high } => {
                values.fill_with(|| low + (high - low) * generator.uniform_f32());
            }
            Self::Normal { mean, deviation } => {
                values.fill_with(|| mean + deviation * generator.normal_f32());
            }
            Self::Custom(draw) => values.fill_with(|| draw(generator)),
        }
    }
}

impl fmt::Debug for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(value) => write!(f, "Constant({value})"),
            Self::Uniform { low, high } => write!(f, "Uniform({low}..{high})"),
            Self::Normal { mean, deviation } => write!(f, "Normal({mean}, {deviation})"),
            Self::Custom(_) => f.write_str("Custom"),
        }
    }
}

//! Vision transformers.

use lowrank_kernels::activation::Activation;
use serde_json::{Map, Value};

use super::fields::{activation, check_attention, depth, flag, fraction, number, product, size};

/// The sizes of ViT.
#[derive(Clone, Debug, PartialEq)]
pub struct VitConfig {
    /// The width `D` of the hidden rows.
    pub hidden_size: usize,
    /// The number of layers.
    pub num_hidden_layers: usize,
    /// The number of attention heads `H`.
    pub num_attention_heads: usize,
    /// The width of the feed-forward layer.
    pub intermediate_size: usize,
    /// The feed-forward layer's activation.
    pub hidden_act: Activation,
    /// Dropout on hidden rows.
    pub hidden_dropout_prob: f32,
    /// Dropout on attention weights.
    pub attention_probs_dropout_prob: f32,
    /// What layer norms add to the variance.
    pub layer_norm_eps: f32,
    /// Height and width of the images that the positions were learned on, in pixels.
    pub image_size: usize,
    /// Height and width of a patch, in pixels.
    pub patch_size: usize,
    /// Colours.
    pub num_channels: usize,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// The standard deviation of freshly drawn weights.
    pub initializer_range: f32,
}

impl VitConfig {
    pub(super) fn from_map(map: &Map<String, Value>) -> Result<Self, String> {
        let config = Self {
            hidden_size: size(map, "hidden_size", Some(768))?,
            num_hidden_layers: depth(map, "num_hidden_layers", Some(12))?,
            num_attention_heads: size(map, "num_attention_heads", Some(12))?,
            intermediate_size: size(map, "intermediate_size", Some(3072))?,
            hidden_act: activation(map, "hidden_act", "gelu")?,
            hidden_dropout_prob: fraction(map, "hidden_dropout_prob", 0.0)?,
            attention_probs_dropout_prob: fraction(map, "attention_probs_dropout_prob", 0.0)?,
            layer_norm_eps: number(map, "layer_norm_eps", 1e-12)? as f32,
            image_size: size(map, "image_size", Some(224))?,
            patch_size: size(map, "patch_size", Some(16))?,
            num_channels: size(map, "num_channels", Some(3))?,
            qkv_bias: flag(map, "qkv_bias", true)?,
            initializer_range: number(map, "initializer_range", 0.02)? as f32,
        };
        let (width, heads) = (config.hidden_size, config.num_attention_heads);
        if !width.is_multiple_of(heads) {
            return Err(format!("hidden_size {width} is not a multiple of num_attention_heads {heads}"));
        }
        if config.image_size < config.patch_size {
            let (image, patch) = (config.image_size, config.patch_size);
            return Err(format!("image_size {image} has no room for a patch of {patch}"));
        }
        let patch = config.patch_size;
        product("num_channels and patch_size twice", &[config.num_channels, patch, patch])?;
        let patches = config.patches_along().saturating_mul(config.patches_along());
        check_attention(("num_attention_heads", heads), ("the number of patches", patches))?;
        Ok(config)
    }

    /// The patches along one side of an image that the positions were learned on.
    pub fn patches_along(&self) -> usize {
        self.image_size / self.patch_size
    }
}

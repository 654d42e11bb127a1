//! ViT (Dosovitskiy et al., arXiv 2010.11929), as Transformers' `ViTForImageClassification`.
//!
//! Modules have the names of Transformers 5; checkpoints have those of Transformers 4, which [`older_name`] gives.

use super::layers::{self, EncoderLayer};
use super::{Head, HeadSpec, ImageShape, Images, Inputs, Model, ModelInfo, Source, VitConfig};
use crate::module;
use crate::nn::{LayerNorm, Linear, assign_names};
use crate::tape::{Layout, Parameter, Tape, Var, ops};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// A vision transformer and a classifier on its class token.
#[derive(Debug)]
pub struct VitForImageClassification {
    vit: VitModel,
    classifier: Linear,
    info: ModelInfo,
}

module!(VitForImageClassification { "vit" => vit, "classifier" => classifier });

/// The name that Transformers 4 and checkpoints have for a module or parameter of ViT.
pub fn older_name(path: &str) -> String {
    let Some((before, rest)) = path.split_once("layers.") else { return path.to_owned() };
    let (number, inner) = rest.split_once('.').unwrap_or((rest, ""));
    let renamed = [
        ("attention.q_proj", "attention.attention.query"),
        ("attention.k_proj", "attention.attention.key"),
        ("attention.v_proj", "attention.attention.value"),
        ("attention.o_proj", "attention.output.dense"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    ];
    let inner = renamed
        .iter()
        .find_map(|(new, old)| inner.strip_prefix(new).map(|rest| format!("{old}{rest}")))
        .unwrap_or_else(|| inner.to_owned());
    let dot = if inner.is_empty() { "" } else { "." };
    format!("{before}encoder.layer.{number}{dot}{inner}")
}

impl VitForImageClassification {
    /// The model's shape, without values.
    pub fn new(config: &VitConfig, num_labels: usize) -> Self {
        let width = config.hidden_size;
        let patch = config.patch_size;
        let along = config.patches_along();
        let info = ModelInfo {
            architecture: HeadSpec::new(Head::ImageClassification, num_labels).class("ViT"),
            kind: Head::ImageClassification,
            base_prefix: "vit",
            head: vec!["classifier"],
            default_targets: &["q_proj", "v_proj"],
            embeddings: &["embeddings"],
            layer_norms: &["layernorm_before", "layernorm_after", "layernorm"],
            num_labels,
            image: Some(ImageShape { channels: config.num_channels, size: config.image_size, patch }),
            older_name: Some(older_name),
            initializer_range: config.initializer_range,
            ..ModelInfo::without_head()
        };
        let mut model = Self {
            vit: VitModel {
                embeddings: VitEmbeddings {
                    cls_token: Parameter::new([1, 1, width]),
                    position_embeddings: Parameter::new([1, 1 + along * along, width]),
                    patch_embeddings: VitPatchEmbeddings {
                        projection: Linear::patches(config.num_channels, patch, width),
                        patch,
                        channels: config.num_channels,
                    },
                    dropout: config.hidden_dropout_prob,
                },
                layers: (0..config.num_hidden_layers).map(|_| VitLayer::new(config)).collect(),
                layernorm: LayerNorm::new(width, config.layer_norm_eps),
            },
            classifier: Linear::new(width, num_labels, true),
            info,
        };
        assign_names(&mut model);
        model
    }
}

impl Model for VitForImageClassification {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn info_mut(&mut self) -> &mut ModelInfo {
        &mut self.info
    }

    fn forward<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs<'_>) -> Result<Var> {
        let Source::Images(images) = &inputs.source else {
            return Err(Error::Usage("this model reads images".into()));
        };
        let first = self.vit.forward_first(tape, images)?;
        self.classifier.forward(tape, &first)
    }
}

/// Patches, layers and the last norm.
#[derive(Debug)]
pub struct VitModel {
    embeddings: VitEmbeddings,
    layers: Vec<VitLayer>,
    layernorm: LayerNorm,
}

module!(VitModel { "embeddings" => embeddings, "layers" => layers, "layernorm" => layernorm });

impl VitModel {
    /// The class tokens, normalised, f32: `[images, D]`. Only they go through the last layer's feed-forward network.
    fn forward_first<'m>(&'m self, tape: &mut Tape<'m>, images: &Images<'_>) -> Result<Var> {
        let hidden = self.embeddings.forward(tape, images)?;
        let first = layers::first_tokens(&self.layers, tape, hidden)?;
        self.layernorm.forward(tape, &first)
    }
}

/// A class token and the projected patches, with their positions.
#[derive(Debug)]
pub struct VitEmbeddings {
    cls_token: Parameter,
    position_embeddings: Parameter,
    patch_embeddings: VitPatchEmbeddings,
    dropout: f32,
}

module!(VitEmbeddings {
    "cls_token" => cls_token,
    "position_embeddings" => position_embeddings,
    "patch_embeddings" => patch_embeddings;
    "dropout"
});

impl VitEmbeddings {
    fn forward(&self, tape: &mut Tape, images: &Images<'_>) -> Result<Var> {
        let (patches, grid) = self.patch_embeddings.forward(tape, images)?;
        let rows = ops::patch_embeddings(tape, &patches, &self.cls_token, &self.position_embeddings, grid)?;
        ops::dropout(tape, &rows, self.dropout)
    }
}

/// A convolution whose windows do not overlap.
#[derive(Debug)]
pub struct VitPatchEmbeddings {
    projection: Linear,
    patch: usize,
    channels: usize,
}

module!(VitPatchEmbeddings { "projection" => projection });

impl VitPatchEmbeddings {
    /// The projected patches of each image, row by row, and how many there are along its height and width.
    fn forward(&self, tape: &mut Tape, images: &Images<'_>) -> Result<(Var, (usize, usize))> {
        let Images { pixels, channels, height, width, layout } = images;
        let (count, patch) = (layout.sequences(), self.patch);
        let grid = (height / patch, width / patch);
        let size = channels * height * width;
        if *channels != self.channels || grid.0 * grid.1 == 0 || pixels.len() != count * size {
            return Err(Error::Usage(format!(
                "{} pixels are not {count} images of {channels} by {height} by {width}, which need {} colours and room \
                 for a patch of {patch}",
                pixels.len(),
                self.channels
            )));
        }
        let inputs = channels * patch * patch;
        let mut rows = Tensor::uninit([count * grid.0 * grid.1, inputs], DType::F32);
        let mut out = rows.make_mut::<f32>().chunks_exact_mut(patch);
        for image in pixels.chunks_exact(size) {
            for (down, across) in (0..grid.0).flat_map(|down| (0..grid.1).map(move |across| (down, across))) {
                for line in (0..channels * patch).map(|i| (i / patch, i % patch)) {
                    let start = (line.0 * height + down * patch + line.1) * width + across * patch;
                    if let Some(out) = out.next() {
                        out.copy_from_slice(&image[start..start + patch]);
                    }
                }
            }
        }
        let lengths = vec![grid.0 * grid.1; count];
        let layout = Layout::like(layout, &lengths)?;
        let rows = Var::constant(rows.to_dtype(DType::from(tape.compute())), layout);
        Ok((self.projection.forward(tape, &rows)?, grid))
    }
}

/// Attention and a feed-forward network, each after a norm and added to what it read.
#[derive(Debug)]
pub struct VitLayer {
    attention: VitAttention,
    layernorm_before: LayerNorm,
    layernorm_after: LayerNorm,
    mlp: VitMlp,
    dropout: f32,
}

module!(VitLayer {
    "attention" => attention,
    "layernorm_before" => layernorm_before,
    "layernorm_after" => layernorm_after,
    "mlp" => mlp;
    "dropout"
});

impl VitLayer {
    fn new(config: &VitConfig) -> Self {
        let width = config.hidden_size;
        let qkv = || Linear::new(width, width, config.qkv_bias);
        let heads = config.num_attention_heads;
        Self {
            attention: VitAttention {
                q_proj: qkv(),
                k_proj: qkv(),
                v_proj: qkv(),
                o_proj: Linear::new(width, width, true),
                attention: ops::Attention::encoder(heads, width / heads, config.attention_probs_dropout_prob),
            },
            layernorm_before: LayerNorm::new(width, config.layer_norm_eps),
            layernorm_after: LayerNorm::new(width, config.layer_norm_eps),
            mlp: VitMlp {
                fc1: Linear::new(width, config.intermediate_size, true),
                fc2: Linear::new(config.intermediate_size, width, true),
                activation: config.hidden_act,
            },
            dropout: config.hidden_dropout_prob,
        }
    }
}

impl EncoderLayer for VitLayer {
    fn attend(&self, tape: &mut Tape, x: &Var) -> Result<Var> {
        let normed = self.layernorm_before.forward(tape, x)?;
        let VitAttention { q_proj, k_proj, v_proj, attention, .. } = &self.attention;
        let qkv = Linear::forward_together(&[q_proj, k_proj, v_proj], tape, &normed)?;
        ops::attention(tape, &qkv, attention, None)
    }

    fn after_attention(&self, tape: &mut Tape, context: &Var, residual: &Var) -> Result<Var> {
        let attended = self.attention.o_proj.forward(tape, context)?;
        let attended = ops::add(tape, &attended, self.dropout, residual)?;
        let normed = self.layernorm_after.forward(tape, &attended)?;
        let inner = self.mlp.forward(tape, &normed)?;
        ops::add(tape, &inner, self.dropout, &attended)
    }
}

/// The projections of attention.
#[derive(Debug)]
pub struct VitAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    attention: ops::Attention,
}

module!(VitAttention { "q_proj" => q_proj, "k_proj" => k_proj, "v_proj" => v_proj, "o_proj" => o_proj });

/// The feed-forward network.
#[derive(Debug)]
pub struct VitMlp {
    fc1: Linear,
    fc2: Linear,
    activation: ops::Activation,
}

module!(VitMlp { "fc1" => fc1, "fc2" => fc2; "activation_fn" });

impl VitMlp {
    fn forward(&self, tape: &mut Tape, x: &Var) -> Result<Var> {
        let inner = self.fc1.forward(tape, x)?;
        let inner = ops::activation(tape, &inner, self.activation)?;
        self.fc2.forward(tape, &inner)
    }
}

#[cfg(test)]
mod tests {
    use super::older_name;

    #[test]
    fn names_of_transformers_5_have_older_ones_in_checkpoints() {
        for (new, old) in [
            ("vit.layers.3.attention.q_proj.weight", "vit.encoder.layer.3.attention.attention.query.weight"),
            ("layers.0.attention.o_proj", "encoder.layer.0.attention.output.dense"),
            ("vit.layers.11.mlp.fc2.bias", "vit.encoder.layer.11.output.dense.bias"),
            ("vit.layers.1.layernorm_before.weight", "vit.encoder.layer.1.layernorm_before.weight"),
            ("vit.layers.1", "vit.encoder.layer.1"),
            ("vit.embeddings.cls_token", "vit.embeddings.cls_token"),
        ] {
            assert_eq!(older_name(new), old);
        }
    }
}

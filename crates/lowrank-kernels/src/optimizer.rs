//! The optimiser's step over flat parameters, and the norm that gradients are clipped by.

use crate::parallel::{PerRow, for_each_row_block};

/// Settings of one step of AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the denominator.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Number of this step; the first is 1.
    pub step: u64,
    /// Factor of the gradient: the clipping coefficient.
    pub gradient_scale: f32,
}

/// The factors of a step, as PyTorch rounds them from f64.
#[derive(Clone, Copy)]
struct Factors {
    gradient_scale: f32,
    decay: f32,
    mean_weight: f32,
    beta2: f32,
    square_weight: f32,
    correction: f32,
    epsilon: f32,
    step_size: f32,
}

multiversion! {
    fn step_block[V](p: &mut [f32], g: &[f32], mean: &mut [f32], square: &mut [f32], f: Factors) {
        for (((p, g), mean), square) in p.iter_mut().zip(g).zip(mean).zip(square) {
            let g = g * f.gradient_scale;
            *mean += f.mean_weight * (g - *mean);
            *square = *square * f.beta2 + f.square_weight * g * g;
            let denominator = square.sqrt() / f.correction + f.epsilon;
            *p = *p * f.decay - f.step_size * (*mean / denominator);
        }
    }
}

/// One step of AdamW.
///
/// # Shapes
/// Four slices of equal length; `exp_avg` and `exp_avg_sq` are the state, zero before the first step.
///
/// # Source
/// `torch.optim.AdamW` (single tensor): decay first, bias corrections in f64, `√v / √(1 - β₂ᵗ) + ε`.
pub fn adamw_step(
    parameter: &mut [f32],
    gradient: &[f32],
    exp_avg: &mut [f32],
    exp_avg_sq: &mut [f32],
    settings: AdamW,
) {
    let len = gradient.len();
    assert_eq!((parameter.len(), exp_avg.len(), exp_avg_sq.len()), (len, len, len));
    assert!(settings.step > 0, "the first step is number 1");
    let power = |beta: f64| 1.0 - beta.powf(settings.step as f64);
    let factors = Factors {
        gradient_scale: settings.gradient_scale,
        decay: (1.0 - settings.learning_rate * settings.weight_decay) as f32,
        mean_weight: (1.0 - settings.beta1) as f32,
        beta2: settings.beta2 as f32,
        square_weight: (1.0 - settings.beta2) as f32,
        correction: power(settings.beta2).sqrt() as f32,
        epsilon: settings.epsilon as f32,
        step_size: (settings.learning_rate / power(settings.beta1)) as f32,
    };
    let outputs = (PerRow::one(parameter), PerRow::one(exp_avg), PerRow::one(exp_avg_sq));
    for_each_row_block(len, 8, outputs, |range, (p, mean, square)| {
        step_block(p.data, &gradient[range], mean.data, square.data, factors);
    });
}

multiversion! {
    /// Sixteen sums in f64, added at the end as a tree.
    fn squared_norm_block[V](x: &[f32]) -> f64 {
        let mut sums = [0.0_f64; 16];
        let chunks = x.chunks_exact(16);
        for (sum, x) in sums.iter_mut().zip(chunks.remainder()) {
            *sum += f64::from(*x) * f64::from(*x);
        }
        for chunk in chunks {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *sum += f64::from(*x) * f64::from(*x);
            }
        }
        let mut half = 8;
        while half > 0 {
            for lane in 0..half {
                sums[lane] += sums[lane + half];
            }
            half /= 2;
        }
        sums[0]
    }
}

/// `Σ x²`, in blocks of fixed size added in index order.
pub fn squared_norm(x: &[f32]) -> f64 {
    const BLOCK: usize = 1 << 16;
    let blocks = x.len().div_ceil(BLOCK);
    let mut sums = vec![0.0; blocks];
    for_each_row_block(blocks, BLOCK, PerRow::one(&mut sums), |range, sums| {
        for (block, sum) in range.zip(sums.data) {
            *sum = squared_norm_block(&x[block * BLOCK..x.len().min((block + 1) * BLOCK)]);
        }
    });
    sums.iter().sum()
}

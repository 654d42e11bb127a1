//! The learning rate of each step.

use std::f64::consts::PI;

/// How the learning rate moves after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScheduleKind {
    /// Straight down to zero at the end of the run.
    #[default]
    Linear,
    /// Down to zero along half a cosine.
    Cosine,
    /// Not at all.
    Constant,
}

impl ScheduleKind {
    /// Every kind, under its name in a run file.
    pub const NAMES: [(&'static str, Self); 3] =
        [("linear", Self::Linear), ("cosine", Self::Cosine), ("constant", Self::Constant)];
}

/// The learning rate as a function of the step; there is no state to save.
///
/// # Source
/// Transformers' `get_linear_schedule_with_warmup`, `get_cosine_schedule_with_warmup` and
/// `get_constant_schedule_with_warmup`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// What follows the warm-up.
    pub kind: ScheduleKind,
    /// Steps in which the rate rises from zero.
    pub warmup_steps: usize,
    /// Steps of the whole run, the warm-up included.
    pub total_steps: usize,
    /// The rate at the end of the warm-up.
    pub base_learning_rate: f64,
}

impl Schedule {
    /// The learning rate of a step, counted from 0 for the first optimiser step.
    pub fn at(&self, step: usize) -> f64 {
        self.base_learning_rate * self.factor(step)
    }

    /// The warm-up steps that a share of the run makes, as Transformers' Trainer rounds them: up.
    pub fn warmup_steps(ratio: f64, total_steps: usize) -> usize {
        (ratio * total_steps as f64).ceil() as usize
    }

    fn factor(&self, step: usize) -> f64 {
        let (warmup, total) = (self.warmup_steps, self.total_steps);
        if step < warmup {
            return step as f64 / warmup as f64;
        }
        let length = total.saturating_sub(warmup).max(1) as f64;
        match self.kind {
            ScheduleKind::Linear => total.saturating_sub(step) as f64 / length,
            ScheduleKind::Cosine => {
                let progress = (step - warmup) as f64 / length;
                (0.5 * (1.0 + (PI * progress).cos())).max(0.0)
            }
            ScheduleKind::Constant => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_step_has_the_learning_rate_of_transformers() {
        let text = include_str!("../../../../tests/golden/fixtures/training/schedules.json");
        let cases: Vec<Value> = serde_json::from_str(text).unwrap();
        for case in &cases {
            let name = case["lr_schedule"].as_str().unwrap();
            let (_, kind) = ScheduleKind::NAMES.into_iter().find(|(known, _)| *known == name).unwrap();
            let number = |key: &str| case[key].as_u64().unwrap() as usize;
            let schedule = Schedule {
                kind,
                warmup_steps: number("warmup_steps"),
                total_steps: number("steps"),
                base_learning_rate: case["learning_rate"].as_f64().unwrap(),
            };
            let rates = case["learning_rates"].as_array().unwrap();
            for (step, rate) in rates.iter().map(|rate| rate.as_f64().unwrap()).enumerate() {
                let difference = (schedule.at(step) - rate).abs();
                assert!(
                    difference <= 1e-12 * rate.abs() + 1e-18,
                    "{case} step {step}: {}",
                    schedule.at(step)
                );
            }
        }
        assert_eq!(cases.len(), 6);
    }

    #[test]
    fn a_step_beyond_the_end_has_no_learning_rate() {
        let schedule = |kind| Schedule { kind, warmup_steps: 0, total_steps: 10, base_learning_rate: 1.0 };
        assert_eq!(schedule(ScheduleKind::Linear).at(12), 0.0);
        assert_eq!(schedule(ScheduleKind::Constant).at(12), 1.0);
    }

    #[test]
    fn a_share_of_the_run_is_rounded_up() {
        assert_eq!(Schedule::warmup_steps(0.06, 300), 18);
        assert_eq!(Schedule::warmup_steps(0.06, 301), 19);
        assert_eq!(Schedule::warmup_steps(0.0, 300), 0);
    }
}

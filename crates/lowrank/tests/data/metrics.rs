use std::fs;

use lowrank::data::metrics::{accuracy, argmax, f1, matthews_correlation, pearson, spearmanr};
use lowrank::data::{Labels, Metrics, TaskOptions, tasks};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    classification: Vec<Classes>,
    regression: Vec<Scores>,
}

#[derive(Deserialize)]
struct Classes {
    name: String,
    predictions: Vec<u32>,
    labels: Vec<u32>,
    accuracy: f64,
    matthews_correlation: f64,
    f1: Option<f64>,
}

#[derive(Deserialize)]
struct Scores {
    name: String,
    predictions: Vec<f64>,
    labels: Vec<f64>,
    pearson: Option<f64>,
    spearmanr: Option<f64>,
}

#[test]
fn metrics_are_those_of_scikit_learn_and_scipy() {
    let Some(path) = crate::fixtures("metrics.json") else { return };
    let golden: Golden = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let close = |name: &str, ours: f64, theirs: f64, tolerance: f64| {
        assert!((ours - theirs).abs() < tolerance, "{name}: {ours} is not {theirs}");
    };
    for case in &golden.classification {
        let (p, e) = (&case.predictions, &case.labels);
        close(&case.name, accuracy(p, e), case.accuracy, 1e-12);
        close(&case.name, matthews_correlation(p, e), case.matthews_correlation, 1e-12);
        if let Some(expected) = case.f1 {
            close(&case.name, f1(p, e, 1), expected, 1e-12);
        }
    }
    for case in &golden.regression {
        let narrow = |values: &[f64]| values.iter().map(|&value| value as f32).collect::<Vec<_>>();
        let (p, e) = (narrow(&case.predictions), narrow(&case.labels));
        // The scores are single precision: what is far from zero loses digits.
        let tolerance = if case.name == "large_offset" { 0.1 } else { 1e-6 };
        close(&case.name, pearson(&p, &e), case.pearson.unwrap_or(0.0), tolerance);
        close(&case.name, spearmanr(&p, &e), case.spearmanr.unwrap_or(0.0), 1e-6);
    }
    assert!(golden.classification.len() > 5 && golden.regression.len() > 5);
}

#[test]
fn metrics_without_a_meaning_are_zero() {
    assert_eq!(accuracy(&[], &[]), 0.0);
    assert_eq!(f1(&[0, 0], &[0, 0], 1), 0.0);
    assert_eq!(matthews_correlation(&[1, 1], &[0, 1]), 0.0);
    assert_eq!(pearson(&[1.0, 1.0], &[0.0, 1.0]), 0.0);
    assert_eq!(pearson(&[1.0, f32::NAN], &[0.0, 1.0]), 0.0);
    assert_eq!(pearson(&[1.0, f32::INFINITY], &[0.0, 1.0]), 0.0);
    assert_eq!(spearmanr(&[1.0, f32::NAN], &[0.0, 1.0]), 0.0);
    assert_eq!(spearmanr(&[], &[]), 0.0);
    assert_eq!(spearmanr(&[0.0, -0.0, 1.0], &[2.0, 2.0, 3.0]), 1.0);
}

#[test]
fn the_largest_output_is_predicted_and_the_first_of_equals() {
    assert_eq!(argmax(&[0.1, 0.7, 0.7]), 1);
    assert_eq!(argmax(&[f32::NAN, -3.0, -4.0]), 1);
    assert_eq!(argmax(&[-1.0, f32::NAN]), 0);
    assert_eq!(argmax(&[]), 0);
}

#[test]
fn batches_are_gathered_into_one_value() {
    let task = tasks::open("mrpc", &TaskOptions::default()).unwrap();
    let mut metrics = Metrics::new(task.info());
    metrics.add(&[0.0, 1.0, 2.0, 1.0], &Labels::Classes(vec![1, 1])).unwrap();
    metrics.add(&[0.0, 3.0], &Labels::Classes(vec![0])).unwrap();
    assert_eq!(metrics.compute(), [("f1", 0.5), ("accuracy", 1.0 / 3.0)]);
    metrics.add(&[0.0], &Labels::Classes(vec![0])).unwrap_err();
    metrics.add(&[0.0, 1.0], &Labels::Scores(vec![0.5, 0.5])).unwrap_err();

    let task = tasks::open("stsb", &TaskOptions::default()).unwrap();
    let mut metrics = Metrics::new(task.info());
    metrics.add(&[1.0, 2.0, 4.0], &Labels::Scores(vec![0.5, 1.0, 2.0])).unwrap();
    let names: Vec<_> = metrics.compute().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["pearson", "spearmanr"]);
    assert!((metrics.compute()[0].1 - 1.0).abs() < 1e-12);
}
